from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from conftest import ROOT
from tf4ctr.experiments.resolvers import job_name, register_resolvers, sweep_name


def test_root_is_the_folder_of_the_project():
    register_resolvers()
    assert OmegaConf.create({"raw_dir": "${root:}/data/raw"}).raw_dir == f"{ROOT}/data/raw"


def test_names_outside_of_a_sweep():
    assert (job_name("deepfm-frappe"), sweep_name()) == ("deepfm-frappe", None)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["dataset=frappe", "dfm=sum", "seed=1"], "dfm=sum seed=1"),
        (["dataset=frappe"], "deepfm-frappe"),
        (["optimizer.lr=0.001", "page=False", "+loss.c=0.3"], "+loss.c=0.3"),  # the last one by a search
    ],
)
def test_names_in_a_sweep(tmp_path, monkeypatch, overrides, name):
    sweep = tmp_path / "2026-01-01" / "12-00-00"
    sweep.mkdir(parents=True)
    shared = "[dataset=frappe, 'dfm=sum,wsf', 'seed=1,2', optimizer.lr=1e-3, page=false]"
    (sweep / "multirun.yaml").write_text(f"hydra: {{overrides: {{task: {shared}}}}}")
    config = SimpleNamespace(
        mode=RunMode.MULTIRUN,
        runtime=SimpleNamespace(output_dir=str(sweep / "0")),
        overrides=SimpleNamespace(task=overrides),
    )
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: config)
    assert (job_name("deepfm-frappe"), sweep_name()) == (name, "2026-01-01/12-00-00")
