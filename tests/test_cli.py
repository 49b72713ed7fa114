import subprocess
import sys

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException, MissingConfigException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from conftest import ROOT, run_script
from tf4ctr.cli import explain
from tf4ctr.errors import InputError
from tf4ctr.experiments.resolvers import register_resolvers


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone=depfm", "backbone=depfm: unknown option, did you mean 'deepfm' or 'xdeepfm'"),
        ("loss.alhpa=1", "loss.alhpa: unknown option, did you mean 'alpha'?"),
        ("framwork=plain", "framwork: unknown option, did you mean 'framework'?"),
        ("backbone.complex.droput=1", "did you mean 'dropout'?"),
        ("dataset.zzzzzzzz=1", "choose from: "),
        ("loss.alpha", "loss.alpha: expected KEY=VALUE"),
        ("seed=W&D", """a text with signs needs quotes: 'seed="W&D"'"""),
        ("encoder@backbone.middle=cin", "; +encoder@backbone.middle=cin adds another one"),
        ("encoder=cin", "encoder=cin: write encoder@backbone.complex=cin or encoder@backbone.simple=cin"),
        ("trainer.limit_train_batches=3", "write +trainer.limit_train_batches=3"),
        ("lr=1e-4", "lr=1e-4: write optimizer.lr=1e-4"),
        ("model=DeepFM", "model=DeepFM: write backbone=deepfm"),
        ("alpha=0.3", "alpha=0.3: write loss.alpha=0.3"),
        ("backbone=Wide&Deep", "backbone=Wide&Deep: write backbone=wide_deep"),
        ("backbone=deepfm,", "backbone=deepfm,: no space after a comma: backbone=A,B"),
        ("optimizer.lr=1e-3,", "optimizer.lr=1e-3,: no space after a comma: optimizer.lr=A,B"),
        ("run=[A,]", "run=[A,]: no space after a comma: run=A,B"),
        ("backbone.complex.hidden_units=[64,", ": no space after a comma: "),
        ("experiment=frappe", "did you mean 'best/frappe' or 'paper/frappe'? Or write --config-dir=FOLDER if it"),
        ("experiment=paper/frapp", "experiment=paper/frapp: unknown option, did you mean 'paper/frappe'"),
        ("experiment=paper", "experiment=paper: unknown option, did you mean 'paper/frappe' or 'paper/movielens_1m'?"),
        ("experiment=best/movielens", "did you mean 'best/movielens_1m'"),
        ("experiment=[paper/frappe,best/frap]", "experiment=best/frap: unknown option, did you mean 'best/frappe'"),
        ("experiment=zzz", "experiment=zzz: unknown option, choose from: bars/"),
        ("backbone=DIN", "backbone=DIN: write sequence=attention"),
    ],
)
def test_a_typo_is_reported_with_the_nearest_names(override, message):
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"), pytest.raises(Exception, match=None) as caught:
        compose("train", [override])
    assert message in (explain(caught.value) or "")


def test_a_launcher_without_its_package_is_reported_with_the_extra():
    error = MissingConfigException("no such file", "hydra/launcher/submitit_slurm", ["basic"])
    assert explain(error) == "launcher=submitit needs a package that is not installed: pip install -e '.[submitit]'"


def test_an_input_error_is_found_among_the_causes():
    outer = RuntimeError("somewhere in a library")
    outer.__cause__ = InputError("train.csv is empty")
    assert explain(outer) == "train.csv is empty"


def test_a_yaml_that_is_not_valid_is_named_with_the_line(tmp_path):
    path = tmp_path / "books.yaml"
    path.write_text("name: books\nfields: [user\nlabel: click\n")
    with pytest.raises(yaml.YAMLError) as caught, path.open() as file:
        yaml.safe_load(file)
    assert (explain(caught.value) or "").startswith(f"{path}, line 3: no valid yaml: ")


def test_a_class_that_cannot_be_found_has_its_cause():
    with pytest.raises(InstantiationException) as caught:
        instantiate({"_target_": "tf4ctr.models.nowhere.Residual"})
    message = explain(caught.value) or ""
    assert "No module named 'tf4ctr.models.nowhere'" in message
    assert "HYDRA_FULL_ERROR" not in message


def test_a_refused_value_has_its_place_or_its_class():
    node = OmegaConf.create({"part": {"_target_": "fractions.Fraction", "numerator": "abc"}})
    for place, refused in ((node.part, "part"), ({"_target_": "fractions.Fraction", "numerator": "abc"}, "fractions")):
        with pytest.raises(InstantiationException) as caught:
            instantiate(place)
        message = explain(caught.value) or ""
        assert message.startswith(refused)
        assert message.endswith(": Invalid literal for Fraction: 'abc'")


def test_other_errors_have_no_message():
    assert explain(KeyError("x")) is None


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train.py", "sweep=ablation"], "sweep=ablation runs several trainings: write -m before it"),
        (["train.py", "ckpt=nowhere"], "ckpt=nowhere: the file does not exist"),
        (["train.py", "dataset=frappe", "dataset.raw_dir=nowhere", "dataset.prepared_dir=p"], "raw files of frappe"),
        (["train.py", "loss.alhpa=1"], "loss.alhpa: unknown option"),
        (["train.py", "-m", "sweep.resume=nowhere"], "sweep.resume=nowhere"),
        (["train.py", "-m", "seed=1,2", "loss.alhpa=1"], "loss.alhpa: unknown option"),
        (["train.py", "-m", "seed=1,", "2"], "seed=1,: no space after a comma: seed=A,B"),
        (["train.py", "-m", "optimizer.lr=interval(1e-4,1e-2)"], "interval() needs sweep=optuna"),
        (["evaluate.py", "run=A,", "B"], "no space after a comma: run=A,B"),
        (["prepare.py", "dataset=frapp"], "dataset=frapp: unknown option"),
        (["prepare.py", "dataset=frappe", "dataset.raw_dir=nowhere", "dataset.prepared_dir=p"], "raw files of frappe"),
        (["evaluate.py"], "run= is missing"),
        (["evaluate.py", "run=nowhere", "split=val"], "there is no such folder"),
        (["predict.py", "run=nowhere", "input=a.csv", "output=b.csv"], "nowhere"),
        (["export.py", "run=nowhere"], "there is no such folder"),
        (["serve.py", "export=nowhere"], "nowhere"),
        (["report.py", "runs=nowhere"], "nowhere contains no run"),
        (["train.py", "--help", "los"], "--help los: there is no such group, did you mean 'loss'"),
        (["report.py", "rans=nowhere"], "rans: unknown option, did you mean 'runs'"),
    ],
)
def test_a_mistake_prints_one_message_and_nothing_else(command, message, tmp_path):
    if command[0] == "train.py" and "-m" not in command:
        command = [*command, f"hydra.run.dir={tmp_path}/run"]
    result = run_script(*command, cwd=tmp_path)
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.startswith("error: ")
    assert message in result.stderr.replace(f"{tmp_path}/", "")
    for unwanted in ("Error executing job", "Traceback", "HYDRA_FULL_ERROR"):
        assert unwanted not in result.stdout + result.stderr


def test_every_mistake_of_several_jobs_is_reported(tmp_path):
    result = run_script("report.py", "-m", "runs=a,b", cwd=tmp_path)
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert [line.partition(" contains no run")[0] for line in lines] == [f"error: {tmp_path}/{name}" for name in "ab"]


def test_a_fault_of_the_program_keeps_its_traceback(tmp_path):
    script = tmp_path / "faulty.py"
    script.write_text(
        "from tf4ctr import cli\n\ndef main(config):\n    raise KeyError('a fault')\n\ncli.run(main, 'report')\n"
    )
    result = run_script(str(script), cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "KeyError: 'a fault'" in result.stderr


def test_help_into_a_pipe_that_is_closed_is_no_fault():
    command = [sys.executable, str(ROOT / "src" / "evaluate.py"), "--help"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()  # as `| head` does when it has read enough
    assert process.stderr.read() == ""
    assert process.wait() == 0


def test_help_of_every_entry_point_imports_no_slow_libraries_and_composes_nothing():
    code = """
import runpy, sys
commands = [[name, "--help"] for name in sys.argv[1:]] + [["train.py", "help=ssem", "loss"]]
for command in commands:
    sys.argv = command
    print("==", *command)
    runpy.run_path(command[0], run_name="__main__")
slow = {"torch", "lightning", "polars", "matplotlib", "plotly", "scipy", "pandas", "wandb", "optuna", "onnxruntime"}
print(slow & {*sys.modules})
"""
    scripts = sorted(path.name for path in (ROOT / "src").glob("*.py"))
    command = [sys.executable, "-c", code, *scripts]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT / "src")
    helped = dict(text.split("\n", 1) for text in result.stdout.split("== ")[1:])
    assert [*helped] == [*(f"{name} --help" for name in scripts), "train.py help=ssem loss"]
    for name in scripts:
        assert f"python src/{name} " in helped[f"{name} --help"]
    ssem_and_loss = helped["train.py help=ssem loss"]
    assert ssem_and_loss.startswith("ssem: ")
    assert "loss.gamma=2" in ssem_and_loss
    assert ssem_and_loss.endswith("\nset()\n")


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_freed_memory_is_kept_for_the_next_step():
    steps = """
import resource, sys, torch
from tf4ctr import cli
if sys.argv[1] == "keep":
    cli.keep_memory()
for step in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    _ = [torch.ones(10_000_000) for _ in range(2)], None
    del _
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {
        how: int(subprocess.run([sys.executable, "-c", steps, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "return")
    }
    assert faults["keep"] < 100 < 10_000 < faults["return"]
