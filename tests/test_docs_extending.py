"""docs/extending.md: every file and every change on the page, copied into a copy of the project."""

import json
import math
import os
import re
import shutil
import subprocess
import sys

import polars as pl
import pytest
from omegaconf import OmegaConf

from conftest import ROOT
from tf4ctr.data.schema import LABEL

PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r'^```\w+ title="(\S+)"\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE))
DIFFS = re.findall(r"^```diff\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
LOG = "data/raw/news/log.csv"


def options():
    """The overrides of all commands of the page, the last one of each key."""
    words = [word for command in COMMANDS for word in command.split()]
    pairs = [word.split("=", 1) for word in words if "=" in word and not word.startswith("PYTHONPATH=")]
    return [f"{key}={value}" for key, value in dict(pairs).items()]


def write_project(folder):
    """Copy the project, and apply the page to it."""
    for part in ("src", "conf"):
        shutil.copytree(ROOT / part, folder / part)
    for name, text in FILES.items():
        assert not (folder / name).exists(), f"{name} is in the project already: the page must show another one"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for diff in DIFFS:
        applied = subprocess.run(
            ["git", "apply", "-"],
            input=diff,
            cwd=folder,
            env=os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)},
            text=True,
            capture_output=True,
        )
        assert applied.returncode == 0, applied.stderr


def write_log(path, rows=600):
    """A log with the columns and the values that the page shows."""
    shown = pl.read_csv(path, infer_schema=False)
    columns = [
        column.sample(rows, with_replacement=True, seed=number) for number, column in enumerate(shown.get_columns())
    ]
    pl.DataFrame(columns).write_csv(path)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extended")
    write_project(folder)
    write_log(folder / LOG)
    return folder


def test_the_files_of_the_page_train_together(project):
    command = [sys.executable, "src/train.py", "--config-dir", "mine/conf", *options()]
    command += ["trainer=cpu", "trainer.max_epochs=1", "stream.batch_size=100", "logger=csv", "callbacks.focus=null"]
    command += ["hydra.run.dir=run"]
    environment = os.environ | {"PYTHONPATH": "mine", "COLUMNS": "160"}
    result = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    config = OmegaConf.load(project / "run" / "config.yaml")
    assert config.backbone.complex == {
        "_target_": "tf4ctr.models.encoders.residual.Residual",
        "_partial_": True,
        "embedding_l2": 1e-5,
        "num_units": 3,
        "hidden": 128,
    }
    assert [config.number._target_, config.loss._target_] == [
        "tf4ctr.models.number_mlp.MLPNumbers",
        "pair_loss.PairLoss",
    ]

    metrics = json.loads((project / "run" / "metrics.json").read_text())
    clicks = pl.read_parquet(project / "data/prepared/news_domains/test.parquet")[LABEL]
    rate = clicks.mean()
    entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
    assert metrics["test/normalized_entropy"] == pytest.approx(metrics["test/logloss"] / entropy)
    assert metrics["test/complex/auc"] > 0

    curves = pl.read_csv(project / "run" / "metrics.csv")
    assert curves["val/normalized_entropy"].null_count() == 0
    expected = 0.7 * curves["train/bce"] + 0.3 * curves["train/pairs"]
    assert curves["train/loss"].to_list() == pytest.approx(expected.to_list(), rel=1e-5)

    domains = pl.read_parquet(project / "run" / "vocabulary" / "domain.parquet")
    assert "blog.example.net" in domains.to_series().to_list()
