"""Serve an exported model: python src/serve.py export=outputs/DATE/RUN/export/onnx"""

import importlib.util
import json
from pathlib import Path

from omegaconf import DictConfig

from tf4ctr import cli
from tf4ctr.errors import InputError


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

    model = ServedModel(Path(config.export).expanduser().absolute(), config.threads)
    app = create_app(model, config.max_body_bytes)
    url, body = f"http://{config.host}:{config.port}", json.dumps({"rows": [example_row(model.encoder)]})
    print(f"serving on {url} (Ctrl-C stops); documentation: {url}/docs; an example, for another terminal:")
    print(f"curl -X POST {url}/predict -H 'content-type: application/json' -d '{body}'", flush=True)
    uvicorn.run(app, host=config.host, port=config.port, log_level="warning")


if __name__ == "__main__":
    cli.run(main, "serve")
