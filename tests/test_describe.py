"""describe.py from the command line."""

import json

import pytest
from omegaconf import OmegaConf

from conftest import ROOT, need_shared, run_script


def test_the_draft_is_shown_and_written(raw_dir, tmp_path):
    output = tmp_path / "conf" / "dataset" / "shop.yaml"
    result = run_script(
        "describe.py", f"input=[{raw_dir}/*.csv]", "name=shop", "group=item", f"output={output}", cwd=tmp_path
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "shop: 600 rows in 3 csv files" in result.stdout
    assert "│ item" in result.stdout
    assert "label: click (its values are 0 and 1" in result.stdout
    assert f"wrote {output}: put it into {ROOT}/conf/dataset, check it," in result.stdout
    assert "python src/train.py dataset=shop" in result.stdout
    config = OmegaConf.load(output)
    assert (config.name, config.label, config.group) == ("shop", "click", "item")
    assert config.fields == ["user", "item", "hour"]
    assert {path.name for path in tmp_path.iterdir()} == {"conf", "raw"}


def test_names_that_look_like_numbers(tmp_path):
    """Hydra reads label=101 as a number."""
    (tmp_path / "log.csv").write_text("101,user,102\n" + "0,5,7\n1,6,8\n0,5,9\n" * 9)
    options = ["label=101", "group=102", f"output={tmp_path}/shop.yaml"]
    result = run_script("describe.py", "input=log.csv", "name=shop", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    config = OmegaConf.load(tmp_path / "shop.yaml")
    assert (config.label, config.group, config.fields) == ("101", "102", ["user", "102"])


def test_a_file_is_never_overwritten(raw_dir, tmp_path):
    output = tmp_path / "shop.yaml"
    output.write_text("mine")
    result = run_script("describe.py", f"input={raw_dir}", "name=shop", f"output={output}", cwd=tmp_path)
    assert result.returncode == 2
    assert f"error: {output} exists and is not overwritten: remove it, or set another name=NAME" in result.stderr
    assert output.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "error: input is missing: python src/describe.py input=clicks.csv name=shop"),
        (["input=log.csv"], "error: name is missing"),
        (["input=log.csv", "name=frappe"], "conf/dataset/frappe.yaml exists and is not overwritten"),
        (["input=[log.csv,other.csv]", "name=shop", "output=shop.yaml"], "log.csv does not exist"),
        (["input=log.csv", "name=shop", "labell=click"], "error: labell: unknown option, did you mean 'label'?"),
    ],
)
def test_a_mistake_is_one_message(options, message, tmp_path):
    result = run_script("describe.py", *options, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not [*tmp_path.iterdir()]


def test_help_shows_how():
    result = run_script("describe.py", "--help")
    assert result.returncode == 0
    assert "python src/describe.py input=clicks.csv name=shop" in result.stdout


PEERS = ["taobao_ad", "criteo", "movielens", "ali_ccp", "aliexpress", "census"]


@pytest.mark.parametrize("name", [*(f"peers/{name}" for name in PEERS), "frappe", "movielens_1m"])
def test_every_draft_trains_as_it_is(tmp_path, name):
    folder = need_shared(name)
    files = f"{folder}/*.csv" if name in ("frappe", "movielens_1m") else str(folder)
    described = run_script(
        "describe.py", f"input={files}", "name=drafted", f"output={tmp_path}/conf/dataset/drafted.yaml", cwd=tmp_path
    )
    assert described.returncode == 0, described.stdout + described.stderr
    options = [f"hydra.searchpath=[file://{tmp_path}/conf]", "dataset=drafted", "dataset.limit_rows=2000"]
    options += [f"dataset.prepared_dir={tmp_path}/prepared", f"hydra.run.dir={tmp_path}/run", "logger=none"]
    trained = run_script("train.py", *options, "trainer=smoke", cwd=tmp_path)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "test/logloss" in json.loads((tmp_path / "run" / "metrics.json").read_text())
