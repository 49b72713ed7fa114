import json

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from conftest import run_script
from tf4ctr.errors import InputError
from tf4ctr.experiments.search import STUDY, distribution


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=interval(0.1, 2)", FloatDistribution(0.1, 2)),
        ("a=tag(log, interval(1e-4, 1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("a=int(interval(2, 8))", IntDistribution(2, 8)),
        ("a=range(10, 41, 10)", IntDistribution(10, 40, step=10)),
        ("a=range(0, 1, 0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("a=choice(deepfm, dcn)", CategoricalDistribution(["deepfm", "dcn"])),
        ("a=[400,400],[200]", CategoricalDistribution(["[400,400]", "[200]"])),
    ],
)
def test_spaces_are_written_as_hydra_writes_sweeps(text, expected):
    assert distribution(OverridesParser.create().parse_override(text)) == expected


def test_a_range_on_a_logarithmic_scale_is_refused():
    with pytest.raises(InputError, match="even steps"):
        distribution(OverridesParser.create().parse_override("a=tag(log, range(1, 9))"))


@pytest.fixture
def command(toy, tmp_path):
    kept = [option for option in toy if not option.startswith("hydra.run.dir")]
    return ["-m", "sweep=optuna", *kept, "logger=csv", f"hydra.sweep.dir={tmp_path}/sweep"]


def test_a_search_goes_on_where_it_stopped_and_tells_the_best(command, tmp_path):
    first = run_script("train.py", *command, "hydra.sweeper.n_trials=1", "trainer.max_epochs=1")
    assert first.returncode == 0, first.stdout + first.stderr
    before = (tmp_path / "sweep" / "0" / "metrics.json").read_text()
    done = run_script("train.py", *command, "hydra.sweeper.n_trials=3", "trainer.max_epochs=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "sweep" / "0" / "metrics.json").read_text() == before
    values = [json.loads((tmp_path / "sweep" / job / "metrics.json").read_text())["val/auc"] for job in "012"]
    study = optuna.load_study(study_name=STUDY, storage=f"sqlite:///{tmp_path}/sweep/search.db")
    assert [trial.value for trial in study.trials] == values
    assert [list(trial.intermediate_values.values()) for trial in study.trials] == [
        [pytest.approx(value, abs=1e-6)] for value in values
    ]
    assert set(study.trials[0].params) == {"optimizer.lr", "loss.alpha", "loss.c"}
    assert f"best of 3 trials: job {values.index(max(values))}, val/auc {max(values):.6f}" in done.stdout.replace(
        "\n", " "
    )
    assert (tmp_path / "sweep" / "search.png").read_bytes().startswith(b"\x89PNG")
    report = (tmp_path / "sweep" / "report.md").read_text()
    assert f"optimizer.lr={study.trials[2].params['optimizer.lr']:.5g}" in report


def test_hopeless_trials_are_pruned_and_those_that_were_under_way_go_first(command, tmp_path):
    (tmp_path / "sweep").mkdir()
    study = optuna.create_study(
        study_name=STUDY,
        storage=f"sqlite:///{tmp_path}/sweep/search.db",
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed=1),
    )
    space = {"embedding.dim": CategoricalDistribution([4, 8])}
    for _ in range(5):
        trial = study.ask(space)
        trial.report(2.0, 0)
        study.tell(trial, 2.0)
    begun = study.ask(space)
    command += ["hydra.sweeper.pruner.n_warmup_steps=0", "embedding.dim=choice(4,8)"]
    done = run_script("train.py", *command, "hydra.sweeper.n_trials=7")
    assert done.returncode == 0, done.stdout + done.stderr
    states = {trial.number: trial.state.name for trial in study.get_trials()[5:]}
    assert states == {5: "PRUNED", 6: "PRUNED"}
    assert (
        f"embedding.dim={begun.params['embedding.dim']}"
        in (tmp_path / "sweep" / "5" / ".hydra" / "overrides.yaml").read_text()
    )
    assert (tmp_path / "sweep" / "5" / "error.txt").read_text().startswith("pruned after epoch 1: val/auc")
    assert "- job 5, " in (tmp_path / "sweep" / "report.md").read_text()


def test_what_cannot_be_searched_is_told(command, tmp_path):
    assert run_script("train.py", *command, "hydra.sweeper.n_trials=0", "embedding.dim=choice(4,8)").returncode == 0
    metric = [
        "embedding.dim=choice(4,8)",
        "hydra.sweeper.objective=val/ap",
        "trainer=smoke",
        "~callbacks.trial_pruning",
    ]
    for options, message in (
        (metric, "objective is 'val/ap'"),
        (["embedding.dim=choice(4,16)"], "began with another space"),
    ):
        done = run_script("train.py", *command, "hydra.sweeper.n_trials=2", *options)
        assert done.returncode == 2, done.stdout + done.stderr
        assert message in done.stderr.replace("\n", " ")
