"""Prepare a dataset without training: python src/prepare.py dataset=frappe download=true"""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from tf4ctr import cli


def main(config: DictConfig) -> None:
    """Prepare `dataset` unless it is prepared; with `download=true` download its files first."""
    from tf4ctr.data.preparation import prepare
    from tf4ctr.data.spec import DatasetSpec

    dataset: dict[str, Any] = OmegaConf.to_container(config.dataset, resolve=True)  # type: ignore[assignment]
    spec = DatasetSpec.from_config(dataset)
    if config.download:
        from tf4ctr.data.download import fetch

        fetch(spec)
    prepare(spec, config.engine)


if __name__ == "__main__":
    cli.run(main, "prepare")
