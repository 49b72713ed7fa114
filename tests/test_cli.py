import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import MissingConfigException

from conftest import ROOT
from tf4ctr.cli import explain
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.experiments.resolvers import register_resolvers


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone=depfm", "backbone=depfm: there is no such option, did you mean 'deepfm' or 'xdeepfm'"),
        ("loss.alhpa=1", "loss.alhpa: there is no such option, did you mean 'alpha'?"),
        ("framwork=plain", "framwork: there is no such option, did you mean 'framework'?"),
        ("backbone.complex.droput=1", "did you mean 'dropout'?"),
        ("dataset.zzzzzzzz=1", "choose from: "),
        ("loss.alpha", "loss.alpha"),
    ],
)
def test_a_typo_is_told_with_the_nearest_names(override, message):
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"), pytest.raises(Exception, match=None) as caught:
        compose("train", [override])
    assert message in (explain(caught.value) or "")


def test_a_launcher_without_its_package_is_told_with_the_extra():
    error = MissingConfigException("no such file", "hydra/launcher/submitit_slurm", ["basic"])
    assert explain(error) == "launcher=submitit needs a package that is not installed: pip install -e '.[submitit]'"


def test_an_input_error_is_found_below_others():
    outer = RuntimeError("somewhere in a library")
    outer.__cause__ = InputError("train.csv is empty")
    assert explain(outer) == "train.csv is empty"


def test_a_fault_of_ours_keeps_its_traceback():
    assert explain(KeyError("x")) is None


def test_did_you_mean_lists_everything_where_nothing_is_near():
    assert did_you_mean("zzz", ["b", "a"]) == "choose from: a, b"


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc hands memory back and takes it again")
def test_memory_that_was_freed_is_kept_for_the_next_step():
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
