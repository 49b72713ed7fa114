"""src/serve.py under load on loopback: requests at a constant rate, without waiting for answers.

    python tests/benchmarks/serving.py [EXPORT] [RATE] [SECONDS]

Without EXPORT, a short run on the synthetic dataset is exported. RATE is 200 requests per second
and SECONDS is 30 by default. Client, server and model share the machine's cores.
"""

import asyncio
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import polars as pl

ROOT = Path(__file__).resolve().parents[2]
# a request's number of rows is drawn from these: mostly one row, sometimes a page of candidates
ROWS_PER_REQUEST = (*[1] * 8, 10, 100)


def run(script: str, *arguments: str) -> None:
    """Run an entry point."""
    subprocess.run([sys.executable, str(ROOT / "src" / script), *arguments], check=True, capture_output=True)


def short_export(folder: Path) -> Path:
    """Train for three batches and export the model; returns the folder of the export."""
    run("train.py", "trainer=smoke", "logger=none", f"hydra.run.dir={folder}/run")
    run("export.py", f"run={folder}/run", f"output={folder}/onnx")
    return folder / "onnx"


def draw_requests(export: Path, count: int) -> list[bytes]:
    """The bodies of `count` requests; one in fifty values is unknown."""
    fields = json.loads((export / "export.json").read_text())["fields"]
    fields_by_column = {field["column"] or field["name"]: field for field in fields}
    known = {
        raw: pl.read_parquet(export / "vocabulary" / f"{field['name']}.parquet").to_series().to_list()
        for raw, field in fields_by_column.items()
    }
    draw = random.Random(2019)

    def row() -> dict[str, str]:
        return {
            raw: draw.choice(values) if values and draw.random() > 0.02 else "unknown" for raw, values in known.items()
        }

    return [json.dumps({"rows": [row() for _ in range(draw.choice(ROWS_PER_REQUEST))]}).encode() for _ in range(count)]


async def load(url: str, bodies: list[bytes], rate: float) -> tuple[list[float], int, float]:
    """Send `bodies` at `rate` requests per second.

    Returns:
        the seconds of each answer, the number of failed ones, and the seconds of all together.
    """
    seconds, errors = [], 0
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    async with httpx.AsyncClient(limits=limits, timeout=10, headers={"content-type": "application/json"}) as client:

        async def ask(body: bytes) -> None:
            nonlocal errors
            start = time.perf_counter()
            try:
                answer = await client.post(f"{url}/predict", content=body)
                valid = answer.status_code == 200 and all(0 <= p <= 1 for p in answer.json()["p"])
            except httpx.HTTPError:
                valid = False
            errors += not valid
            seconds.append(time.perf_counter() - start)

        start, tasks = time.perf_counter(), []
        for number, body in enumerate(bodies):
            await asyncio.sleep(max(0, start + number / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(ask(body)))
        await asyncio.gather(*tasks)
        return seconds, errors, time.perf_counter() - start


def main(export: Path, rate: float, duration: float) -> int:
    """Serve `export` and send requests for `duration` seconds; returns the exit status."""
    with socket.socket() as probe:  # finds a free port
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    app = subprocess.Popen(
        [sys.executable, str(ROOT / "src" / "serve.py"), f"export={export}", f"port={port}"], stdout=subprocess.DEVNULL
    )
    try:
        while True:
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.HTTPError:
                if app.poll() is not None:
                    return 1
                time.sleep(0.1)
        asyncio.run(load(url, draw_requests(export, int(2 * rate)), rate))  # a warm-up
        bodies = draw_requests(export, int(rate * duration))
        seconds, errors, total = asyncio.run(load(url, bodies, rate))
    finally:
        app.terminate()
        app.wait()
    rows = sum(len(json.loads(body)["rows"]) for body in bodies)
    cuts = statistics.quantiles(seconds, n=1000)
    requests = f"{len(bodies):,} requests of {rows:,} rows in {total:.1f} s: {len(bodies) / total:.0f} requests/s"
    print(f"{requests}, {errors} errors")
    print("latency: " + ", ".join(f"p{p:g} {1e3 * cuts[int(10 * p) - 1]:.1f} ms" for p in (50, 90, 99, 99.9)))
    return int(errors > 0)


if __name__ == "__main__":
    export, rate, duration = (*sys.argv[1:], *("", "200", "30")[len(sys.argv) - 1 :])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(export).absolute() if export else short_export(Path(scratch))
        sys.exit(main(folder, float(rate), float(duration)))
