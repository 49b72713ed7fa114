"""Serve an exported model: python src/serve.py export=outputs/DATE/RUN/export/onnx"""

import importlib.util
import json
import shlex
import socket
from pathlib import Path

from omegaconf import DictConfig

from tf4ctr import cli
from tf4ctr.errors import InputError, check_whole


def main(config: DictConfig) -> None:
    """Answer requests until stopped."""
    if config.export is None:
        raise InputError(
            "export= is missing: name the folder of an ONNX export; python src/export.py run=RUN writes it"
        )
    needed = ("fastapi", "uvicorn", "onnxruntime", "prometheus_client", "prometheus_fastapi_instrumentator")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise InputError(f"serving needs {', '.join(missing)}: pip install -e '.[serve]'")
    import uvicorn

    from tf4ctr.inference.request_rows import example_row
    from tf4ctr.inference.serving import ServedModel, create_app

    check_whole("threads", config.threads, 0)
    model = ServedModel(Path(config.export).expanduser().absolute(), config.threads)
    app = create_app(model, config.max_body_bytes)
    listener = listen(config.host, config.port)
    url = f"http://[{config.host}]:{config.port}" if ":" in config.host else f"http://{config.host}:{config.port}"
    body = shlex.quote(json.dumps({"rows": [example_row(model.encoder)]}, ensure_ascii=False))
    print(f"serving on {url} (Ctrl-C stops); documentation: {url}/docs; an example, for another terminal:")
    print(f"curl -X POST {url}/predict -H 'content-type: application/json' -d {body}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections: a port in use is found before the server says it serves.

    Raises:
        InputError: another program has the port, or there is no such host or port.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError, TypeError) as error:
        reason = str(getattr(error, "strerror", error)).partition(" (")[0]
        raise InputError(
            f"host={host} port={port}: cannot listen there ({reason}); name a free port, as in port=8001, and an"
            " address of this machine: 127.0.0.1, or 0.0.0.0 for all of its addresses"
        ) from error


if __name__ == "__main__":
    cli.run(main, "serve")
