"""Serve an exported model: python src/serve.py export=outputs/DATE/RUN/export/onnx"""

import importlib.util
import json
from pathlib import Path

import hydra
from omegaconf import DictConfig

from tf4ctr import cli
from tf4ctr.errors import InputError


@hydra.main(version_base="1.3", config_path="../conf", config_name="serve")
def main(config: DictConfig) -> None:
    """Answer requests until stopped."""
    if config.export is None:
        raise InputError("export= is missing: the folder of an ONNX export, as python src/export.py run=RUN writes it")
    needed = ("fastapi", "uvicorn", "onnxruntime", "prometheus_client", "prometheus_fastapi_instrumentator")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise InputError(f"serving needs {', '.join(missing)}: pip install -e '.[serve]'")
    import uvicorn

    from tf4ctr.inference.serving import ServedModel, create_app, example_row

    model = ServedModel(Path(config.export).expanduser().absolute(), config.threads)
    url, body = f"http://{config.host}:{config.port}", json.dumps({"rows": [example_row(model.encoder)]})
    print(f"serving on {url}, to look around: {url}/docs, to try, in another terminal (Ctrl-C stops):")
    print(f"curl -X POST {url}/predict -H 'content-type: application/json' -d '{body}'", flush=True)
    uvicorn.run(create_app(model), host=config.host, port=config.port, log_level="warning")


if __name__ == "__main__":
    cli.run(main)
