import pytest

from tf4ctr.errors import InputError
from tf4ctr.experiments.sweep_arguments import resumed


def test_resume_is_the_command_that_started_the_sweep(tmp_path):
    (tmp_path / "multirun.yaml").write_text(
        "hydra: {overrides: {hydra: [hydra.mode=MULTIRUN, hydra.sweep.dir=elsewhere],"
        " task: ['seed=1,2', dataset=frappe]}}"
    )
    command = ["--multirun", "hydra.mode=MULTIRUN", "seed=1,2", "dataset=frappe", f"hydra.sweep.dir='{tmp_path}'"]
    assert resumed(["-m", f"sweep.resume={tmp_path}"]) == command
    for place in (["--config-dir", "mine/conf"], ["--config-dir=mine/conf"]):
        assert resumed([*place, "-m", f"sweep.resume={tmp_path}"]) == [*place, *command]
    assert resumed(["-m", "seed=1"]) == ["-m", "seed=1"]


SWEEP = """
hydra:
  overrides:
    hydra: [hydra.sweeper.n_trials=2]
    task: ["seed=1,2", dataset=frappe, "loss.alpha=${loss.c}"]
"""


@pytest.fixture
def finished(tmp_path):
    """The folder of a sweep with a finished job."""
    (tmp_path / "multirun.yaml").write_text(SWEEP)
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    (tmp_path / "0" / ".hydra" / "overrides.yaml").write_text("[]")
    (tmp_path / "0" / "metrics.json").write_text('{"test/auc": 0.7}')
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["seed=1,2", "dataset=frappe", "loss.alpha=${loss.c}", "hydra.sweeper.n_trials=4"],
        ["--config-dir", "mine", "-cn", "train", "seed=1, 2", "dataset=frappe", "loss.alpha=${loss.c}", "launcher=ray"],
    ],
)
def test_a_sweep_goes_on_in_its_folder(finished, words):
    arguments = ["-m", *words, f"hydra.sweep.dir='{finished}'"]
    assert resumed(arguments) == arguments


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=1,2,3", "dataset=frappe", "loss.alpha=${loss.c}"], r"\(seed=1,2 seed=1,2,3\): name another folder"),
        (["dataset=frappe", "seed=1,2", "loss.alpha=${loss.c}"], "or in another order"),
        (["seed=1,2", "dataset=frappe", "loss.alpha=0.7"], r"\(loss.alpha=\$\{loss.c\} loss.alpha=0.7\)"),
        (
            ["seed=1,2", "dataset=frappe", "loss.alpha=${loss.c}", "+hydra.sweeper.params.loss.c='1,2'"],
            "sweeper.params",
        ),
    ],
)
@pytest.mark.parametrize("prefix", ["", "++"])
def test_a_folder_with_a_sweep_gets_no_jobs_of_another_one(finished, words, message, prefix):
    """Job 1 was another setting: it has finished, and its results would get the new name."""
    with pytest.raises(InputError, match=message):
        resumed(["-m", *words, f"{prefix}hydra.sweep.dir={finished}"])
    (finished / "0" / "metrics.json").unlink()  # nothing can be confused
    assert resumed(["-m", *words, f"hydra.sweep.dir={finished}"])[1:-1] == words


def test_resume_keeps_references_to_other_values(finished):
    assert "loss.alpha=${loss.c}" in resumed([f"sweep.resume={finished}"])


@pytest.mark.parametrize(("arguments", "message"), [(["-m"], "no multirun.yaml"), (["-m", "seed=3"], "remove seed=3")])
def test_a_sweep_that_cannot_be_resumed_is_an_error(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        resumed([*arguments, f"sweep.resume={tmp_path}"])
