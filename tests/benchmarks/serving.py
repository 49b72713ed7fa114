"""src/serve.py under load on loopback: requests at a steady rate, whether the earlier ones are answered or not.

python tests/benchmarks/serving.py [EXPORT] [RATE] [SECONDS]; without an export, one of a short run on the drawn dataset. Client, app and
model share the machine's cores.
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
ROWS_A_REQUEST = (
    1,
    1,
    1,
    1,
    1,
    1,
    1,
    1,
    10,
    100,
)  # drawn from: mostly a user's one row, now and then a page of candidates


def run(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, str(ROOT / "src" / script), *arguments], check=True, capture_output=True)


def short_export(folder: Path) -> Path:
    run("train.py", "trainer=smoke", "logger=none", f"hydra.run.dir={folder}/run")
    run("export.py", f"run={folder}/run", f"output={folder}/onnx")
    return folder / "onnx"


def draw_requests(export: Path, count: int) -> list[bytes]:
    """Bodies of known values, one in fifty unknown."""
    fields = json.loads((export / "export.json").read_text())["fields"]
    values = {field["column"] or field["name"]: field for field in fields}
    known = {
        raw: pl.read_parquet(export / "vocabulary" / f"{field['name']}.parquet").to_series().to_list()
        for raw, field in values.items()
    }
    draw = random.Random(2019)

    def row() -> dict[str, str]:
        return {raw: draw.choice(each) if each and draw.random() > 0.02 else "unknown" for raw, each in known.items()}

    return [json.dumps({"rows": [row() for _ in range(draw.choice(ROWS_A_REQUEST))]}).encode() for _ in range(count)]


async def load(url: str, bodies: list[bytes], rate: float) -> tuple[list[float], int, float]:
    """Seconds of each answer, how many were none, and the seconds of all."""
    seconds, errors = [], 0
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    async with httpx.AsyncClient(limits=limits, timeout=10, headers={"content-type": "application/json"}) as client:

        async def ask(body: bytes) -> None:
            nonlocal errors
            begun = time.perf_counter()
            try:
                answer = await client.post(f"{url}/predict", content=body)
                good = answer.status_code == 200 and all(0 <= p <= 1 for p in answer.json()["p"])
            except httpx.HTTPError:
                good = False
            errors += not good
            seconds.append(time.perf_counter() - begun)

        begun, asked = time.perf_counter(), []
        for number, body in enumerate(bodies):
            await asyncio.sleep(max(0, begun + number / rate - time.perf_counter()))
            asked.append(asyncio.create_task(ask(body)))
        await asyncio.gather(*asked)
        return seconds, errors, time.perf_counter() - begun


def main(export: Path, rate: float, duration: float) -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
        asyncio.run(load(url, draw_requests(export, int(2 * rate)), rate))  # warm
        bodies = draw_requests(export, int(rate * duration))
        seconds, errors, taken = asyncio.run(load(url, bodies, rate))
    finally:
        app.terminate()
        app.wait()
    rows = sum(len(json.loads(body)["rows"]) for body in bodies)
    cuts = statistics.quantiles(seconds, n=1000)
    print(
        f"{len(bodies):,} requests of {rows:,} rows in {taken:.1f} s: {len(bodies) / taken:.0f} requests/s, {errors} errors"
    )
    print("answered within " + ", ".join(f"p{p:g} {1e3 * cuts[int(10 * p) - 1]:.1f} ms" for p in (50, 90, 99, 99.9)))
    return int(errors > 0)


if __name__ == "__main__":
    export, rate, duration = (*sys.argv[1:], *("", "200", "30")[len(sys.argv) - 1 :])
    with tempfile.TemporaryDirectory() as made:
        sys.exit(main(Path(export).absolute() if export else short_export(Path(made)), float(rate), float(duration)))
