import json
import re

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from conftest import run_script
from tf4ctr.errors import InputError
from tf4ctr.experiments.search import STUDY, _batches, _log_best, _open_study, _result, _split, direction, distribution


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=interval(0.1, 2)", FloatDistribution(0.1, 2)),
        ("a=tag(log, interval(1e-4, 1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("a=int(interval(2, 8))", IntDistribution(2, 8)),
        ("a=range(10, 41, 10)", IntDistribution(10, 40, step=10)),
        ("a=range(0, 1, 0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("a=range(0, 1, 0.3)", FloatDistribution(0, 0.9, step=0.3)),
        ("a=choice(deepfm, dcn)", CategoricalDistribution(["deepfm", "dcn"])),
        ("a=[400,400],[200]", CategoricalDistribution(["[400,400]", "[200]"])),
    ],
)
def test_spaces_have_the_syntax_of_hydras_sweeps(text, expected):
    assert distribution(OverridesParser.create().parse_override(text)) == expected


def test_a_range_on_a_logarithmic_scale_is_an_error():
    with pytest.raises(InputError, match="even steps"):
        distribution(OverridesParser.create().parse_override("a=tag(log, range(1, 9))"))


@pytest.mark.parametrize("text", ["a=range(3, 3)", "a=range(10, 0, -2)"])
def test_a_range_without_numbers_or_downwards_is_an_error(text):
    with pytest.raises(InputError, match="expected a range of at least one number with a step above 0"):
        distribution(OverridesParser.create().parse_override(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=interval(1e-2,1e-4)", "expected interval(a, b) with two finite numbers, a not above b"),
        ("a=int(interval(8, 2))", "expected interval(a, b) with two finite numbers, a not above b"),
        ("a=interval(0, inf)", "expected interval(a, b) with two finite numbers, a not above b"),
        ("a=interval(nan, 1)", "expected interval(a, b) with two finite numbers, a not above b"),
        ("a=tag(log,interval(0,1e-4))", "a logarithmic scale has no 0"),
        ("a=tag(log,int(interval(0,8)))", "a logarithmic scale has no 0"),
    ],
)
def test_an_interval_that_has_no_distribution_is_an_error(text, message):
    with pytest.raises(InputError, match=re.escape(f"{text}: {message}")):
        _split([text], {})


@pytest.fixture
def command(toy, tmp_path):
    kept = [option for option in toy if not option.startswith("hydra.run.dir")]
    return ["-m", "sweep=optuna", *kept, "logger=csv", f"hydra.sweep.dir={tmp_path}/sweep"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("metrics.json", '{"test/auc": 0.7, "val/auc": 0.6}', (0.6, TrialState.COMPLETE)),
        ("pruned.txt", "pruned after epoch 1", (None, TrialState.PRUNED)),
        ("error.txt", "pruned after epoch 1", (None, TrialState.PRUNED)),  # of earlier code
        ("error.txt", "no such file", (None, TrialState.FAIL)),
        ("train.log", "", (None, TrialState.FAIL)),
    ],
)
def test_the_files_of_a_job_are_the_result_of_its_trial(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert _result(tmp_path, "val/auc") == expected


@pytest.mark.parametrize("value", ["NaN", "null"])
def test_an_undefined_objective_is_an_error(tmp_path, value):
    (tmp_path / "metrics.json").write_text(f'{{"test/auc": 0.7, "val/auc": {value}}}')
    with pytest.raises(InputError, match="objective is 'val/auc', which is undefined in job"):
        _result(tmp_path, "val/auc")


def test_a_search_resumes_and_reports_the_best_trial(command, tmp_path):
    first = run_script("train.py", *command, "hydra.sweeper.n_trials=1", "trainer.max_epochs=1")
    assert first.returncode == 0, first.stdout + first.stderr
    before = (tmp_path / "sweep" / "0" / "metrics.json").read_text()
    second = run_script("train.py", *command, "hydra.sweeper.n_trials=3", "trainer.max_epochs=1")
    assert second.returncode == 0, second.stdout + second.stderr
    assert (tmp_path / "sweep" / "0" / "metrics.json").read_text() == before
    values = [json.loads((tmp_path / "sweep" / job / "metrics.json").read_text())["val/auc"] for job in "012"]
    study = optuna.load_study(study_name=STUDY, storage=f"sqlite:///{tmp_path}/sweep/search.db")
    assert [trial.value for trial in study.trials] == values
    assert [list(trial.intermediate_values.values()) for trial in study.trials] == [
        [pytest.approx(value, abs=1e-6)] for value in values
    ]
    assert set(study.trials[0].params) == {"optimizer.lr", "loss.alpha", "loss.c"}
    best = f"best of 3 trials: job {values.index(max(values))}, val/auc {max(values):.6f}"
    assert best in second.stdout.replace("\n", " ")
    assert (tmp_path / "sweep" / "search.png").read_bytes().startswith(b"\x89PNG")
    report = (tmp_path / "sweep" / "report.md").read_text()
    assert f"optimizer.lr={study.trials[2].params['optimizer.lr']:.5g}" in report


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("val/auc", "maximize"),
        ("val/monitor", "maximize"),
        ("val/logloss", "minimize"),
        ("val/uncalibrated_logloss", "minimize"),
        ("val/simple/logloss", "minimize"),
        ("val/ece", "minimize"),
    ],
)
def test_less_logloss_is_better_and_more_of_other_metrics(objective, expected):
    assert direction(objective) == expected


def test_the_best_trial_and_the_pruned_ones_are_those_of_the_objective(tmp_path, caplog):
    caplog.set_level("INFO")
    pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=0)
    for objective, best in (("val/logloss", 0), ("val/auc", 2)):
        study = _open_study(objective, f"sqlite:///{tmp_path}/{best}.db", pruner)
        for value in (0.2, 0.4, 0.6):
            trial = study.ask({"loss.c": FloatDistribution(0.6, 1)})
            trial.report(value, 0)
            study.tell(trial, value)
        _log_best(study, objective)
        assert f"best of 3 trials: job {best}, {objective} " in caplog.text
        # a job opens the study by its name alone, as TrialPruning does
        opened = optuna.load_study(study_name=STUDY, storage=f"sqlite:///{tmp_path}/{best}.db", pruner=pruner)
        pruned = {}
        for value in (0.1, 0.9):
            trial = opened.ask({"loss.c": FloatDistribution(0.6, 1)})
            trial.report(value, 0)
            pruned[value] = trial.should_prune()
            opened.tell(trial, state=TrialState.FAIL)
        assert pruned == {0.1: objective == "val/auc", 0.9: objective == "val/logloss"}


def test_a_study_that_maximised_its_logloss_is_refused(tmp_path):
    storage = f"sqlite:///{tmp_path}/search.db"
    optuna.create_study(study_name=STUDY, storage=storage, direction="maximize")
    with pytest.raises(InputError, match="is val/logloss, but the search in .* with an objective to maximize"):
        _open_study("val/logloss", storage, optuna.pruners.NopPruner())


def test_a_search_goes_on_with_its_objective_only(tmp_path):
    """The numbers of two objectives cannot be compared. A search without results may change it."""
    storage, pruner = f"sqlite:///{tmp_path}/search.db", optuna.pruners.NopPruner()
    _open_study("val/ap", storage, pruner)
    study = _open_study("val/auc", storage, pruner)
    study.ask().report(0.7, 0)
    assert _open_study("val/auc", storage, pruner).trials
    for other in ("val/gauc", "val/logloss"):
        with pytest.raises(InputError, match=f"objective is {other}, but the search in .* started with val/auc: "):
            _open_study(other, storage, pruner)


def test_unpromising_trials_are_pruned_and_unfinished_ones_run_first(command, tmp_path):
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
    unfinished = study.ask(space)
    command += ["hydra.sweeper.pruner.n_warmup_steps=0", "embedding.dim=choice(4,8)"]
    result = run_script("train.py", *command, "hydra.sweeper.n_trials=7")
    assert result.returncode == 0, result.stdout + result.stderr  # pruned trials are no failures
    states = {trial.number: trial.state.name for trial in study.get_trials()[5:]}
    assert states == {5: "PRUNED", 6: "PRUNED"}
    job = tmp_path / "sweep" / "5"
    dim = unfinished.params["embedding.dim"]
    assert f"embedding.dim={dim}" in (job / ".hydra" / "overrides.yaml").read_text()
    assert (job / "pruned.txt").read_text().startswith("pruned after epoch 1: val/auc")
    assert not (job / "error.txt").exists()
    assert "- job 5, " in (tmp_path / "sweep" / "report.md").read_text()


def test_a_failed_trial_gives_exit_status_1(command, tmp_path):
    options = ["loss.c=choice(1.5)", "hydra.sweeper.n_trials=1"]  # c above 1 needs an even gamma
    result = run_script("train.py", *command, *options)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "no trial has finished" in result.stdout
    assert "- job 0, as composed: loss.c is 1.5" in (tmp_path / "sweep" / "report.md").read_text()


def test_a_search_that_is_impossible_is_an_error(command, tmp_path):
    assert run_script("train.py", *command, "hydra.sweeper.n_trials=0", "embedding.dim=choice(4,8)").returncode == 0
    metric = [
        "embedding.dim=choice(4,8)",
        "hydra.sweeper.objective=val/ap",
        "trainer=smoke",
        "~callbacks.trial_pruning",
    ]
    for options, message in (
        (metric, "objective is 'val/ap'"),
        ([metric[0], "hydra.sweeper.objective=val/logloss", *metric[2:]], "was started with val/ap"),
        (["embedding.dim=choice(4,16)"], "has a sweep that was started with other overrides"),
    ):
        result = run_script("train.py", *command, "hydra.sweeper.n_trials=2", *options)
        assert result.returncode == 2, result.stdout + result.stderr
        assert message in result.stderr.replace("\n", " ")
        assert "Error executing job" not in result.stderr
    # of the last search that was not refused
    assert "objective: val/ap\n" in (tmp_path / "sweep" / "multirun.yaml").read_text()


def test_a_search_without_training_is_refused_before_any_job(command, tmp_path):
    result = run_script("train.py", *command, "dry_run=true")
    assert result.returncode == 2, result.stdout + result.stderr
    assert "sweep=optuna needs the results of its trials" in result.stderr
    assert not (tmp_path / "sweep").exists()


def test_an_impossible_space_is_refused_before_any_job(command, tmp_path):
    result = run_script("train.py", *command, "optimizer.lr=interval(1e-2,1e-4)")
    assert result.returncode == 2, result.stdout + result.stderr
    assert "optimizer.lr=interval(1e-2,1e-4): expected interval(a, b)" in result.stderr.replace("\n", " ")
    assert not (tmp_path / "sweep" / "0").exists()


def test_a_study_of_another_space_is_refused():
    study = optuna.create_study()
    study.ask({"embedding.dim": CategoricalDistribution([4, 8])})
    study.tell(0, 0.5)
    with pytest.raises(InputError, match="started with another space"):
        list(_batches(study, {"embedding.dim": CategoricalDistribution([4, 16])}, 2, 1))


def test_what_has_one_value_on_the_command_line_is_not_searched():
    params = {"optimizer.lr": "interval(1e-4, 1e-2)", "loss.c": "interval(0.6, 1)"}
    fixed, space = _split(["dataset=frappe", "optimizer.lr=1e-3"], params)
    assert fixed == ["dataset=frappe", "optimizer.lr=1e-3"]
    assert list(space) == ["loss.c"]
    with pytest.raises(InputError, match="nothing to search"):
        _split(["optimizer.lr=1e-3", "loss.c=0.7"], params)


def test_a_space_keeps_the_package_of_a_group_and_the_sign_of_a_new_key():
    words = ["encoder@backbone.simple=fm,lr", "encoder@backbone.complex=mlp,cross", "+trainer.max_steps=10,20"]
    fixed, space = _split(words, {})
    assert fixed == []
    assert list(space) == ["encoder@backbone.simple", "encoder@backbone.complex", "+trainer.max_steps"]
