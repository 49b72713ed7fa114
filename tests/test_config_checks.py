import re

import pytest
import torch
from hydra.errors import InstantiationException

from conftest import ROOT
from test_assembly import composed, options, spec_of
from tf4ctr.config_checks import TRAINING, check_config, check_length, check_machine, check_values
from tf4ctr.errors import InputError


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+backbone.complex.hiden=3", "unexpected keyword argument 'hiden'"),
        ("optimizer.lr=-1", "the optimizer's options do not fit: Invalid learning rate: -1"),
        ("+optimizer.speed=1", "the optimizer's options do not fit: .*'speed'"),
        ("stream.batch_size=1", "stream.batch_size is 1: .*batch norm needs at least 2 rows"),
        ("stream.batch_size=1e4", "stream.batch_size is 10000.0: expected an integer"),
        ("+stream.rows=3", "the stream's options do not fit: .*'rows'"),
        ("stream.tier=tape", "stream.tier is 'tape': choose from: auto, device, disk, memory"),
        ("embedding.l2=-1", "embedding.l2 is -1"),
        ("embedding.dim=15", "must be even"),
        ("loss.c=1.5", "only an even gamma"),
        ("loss.focus=[0,0.5,1]", "loss.focus has 3 .*2 encoders"),
        (
            "trainer.precision=16-mixed",
            "trainer.precision is 16-mixed: 32-true, bf16-mixed.*bf16-mixed is the fast one",
        ),
        ("trainer.precision=16-true", "trainer.precision is 16-true"),
        ("trainer.precision=bf16-true", "trainer.precision is bf16-true"),
        ("trainer=ddp_cpu trainer.sync_batchnorm=true", "trainer.sync_batchnorm=true needs GPUs"),
        ("+trainer.accumulate_grad_batches=4", "accumulate_grad_batches is 4: .* larger stream.batch_size"),
        ("+trainer.gradient_clip_algorithm=value", "gradient_clip_algorithm is value: .* by their norm"),
        ("+optimizer.weight_decay=0.1", "optimizer.weight_decay has no effect: tables have embedding.l2"),
        ("embedding=rowwise optimizer._target_=torch.optim.AdamW", "optimizer._target_ is AdamW: .*optimizer=adam"),
        ("embedding=rowwise optimizer._target_=torch.optim.SGD ~optimizer.betas", "optimizer._target_ is SGD: "),
        ("calibrate=platt", "calibrate=platt: expected true or false"),
        ("trainer.compile=maybe", "trainer.compile is maybe: expected true or false"),
        ("trainer.matmul_precision=hihg", "trainer.matmul_precision is hihg: did you mean 'high' or 'highest'"),
        ("backbone=dnn", "one encoder.*framework=plain"),
    ],
)
def test_a_mistake_shows_before_any_data(override, message):
    config = composed(*override.split())
    with pytest.raises(Exception, match=message) as caught:
        check_config(config, spec_of(config))
    assert any(isinstance(error, InputError) for error in (caught.value, caught.value.__cause__))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("embedding.l2=null", "embedding.l2 is null: expected a number; write 0 for no L2"),
        ("embedding.l2=abc", "embedding.l2 is abc: expected a number"),
        # not embedding.l2, which has its value from there
        (
            "dataset.training.embedding_l2=null",
            "dataset.training.embedding_l2 is null: expected a number; write 0 for no L2",
        ),
        (
            "backbone.complex.embedding_l2=null",
            "backbone.complex.embedding_l2 is null: expected a number; write 0 for no L2",
        ),
        ("embedding.dim=16.0", "embedding.dim is 16.0: expected an integer, at least 1"),
        ("embedding.dim=0", "embedding.dim is 0: expected an integer, at least 1"),
        ("embedding.table.init_std=-1", "embedding.table.init_std is -1: expected a number, at least 0"),
        ("number.init_std=-1", "number.init_std is -1: expected a number, at least 0"),
        ("optimizer.lr=fast", "optimizer.lr is fast: expected a number"),
        ("seed=abc", "seed is abc: expected an integer, at least 0, at most 4294967295"),
        ("seed=-1", "seed is -1: expected an integer, at least 0, at most 4294967295"),
        ("seed=4294967296", "seed is 4294967296: expected an integer, at least 0, at most 4294967295"),
        ("seed=true", "seed is true: expected an integer, at least 0, at most 4294967295"),
        ("page=abc", "page is abc: expected true or false"),
        ("trainer.max_epochs=abc", "trainer.max_epochs is abc: expected an integer or null"),
        (
            "trainer.gradient_clip_val=-1",
            "trainer.gradient_clip_val is -1: expected an integer or a number or null, at",
        ),
        (
            "trainer.devices=abc",
            "trainer.devices is abc: expected an integer, at least 1; auto (all); or a list, as in",
        ),
        ("trainer=cpu trainer.devices=-1", "trainer.devices is -1: expected an integer, at least 1"),
        ("trainer.gradient_clip_val=abc", "trainer.gradient_clip_val is abc: expected an integer or a number or null"),
        ("callbacks.early_stopping.patience=abc", "callbacks.early_stopping.patience is abc: expected an integer, at"),
        ("callbacks.lr_plateau.patience=null", "callbacks.lr_plateau.patience is null: expected an integer, at least"),
        ("callbacks.lr_plateau.patience=-1", "callbacks.lr_plateau.patience is -1: expected an integer, at least 0"),
        ("callbacks.lr_plateau.factor=abc", "callbacks.lr_plateau.factor is abc: expected a number"),
        ("backbone.complex.batch_norm=abc", "backbone.complex.batch_norm is abc: expected true or false"),
        ("stream.shuffle_rows=abc", "stream.shuffle_rows is abc: expected an integer, at least 1"),
        ("callbacks.stop_diverged.every_n_train_steps=0", "every_n_train_steps is 0: expected an integer, at least 1"),
        ("callbacks.progress_bar.every_n_train_steps=0", "every_n_train_steps is 0: expected an integer, at least 1"),
        ("backbone.complex.hidden_units=64", "backbone.complex.hidden_units is 64: expected a list of integers, as in"),
        ("backbone.complex.hidden_units=[64,1.5]", "hidden_units is [64, 1.5]: expected a list of integers"),
        ("optimizer.betas=0.9", "optimizer.betas is 0.9: expected a list of 2 numbers, as in [0.9,0.999]"),
        ("optimizer.betas=[0.9]", "optimizer.betas is [0.9]: expected a list of 2 numbers"),
        ("loss.focus=abc", "loss.focus is abc: expected a list of numbers"),
        ("loss.alpha=abc", "loss.alpha is abc: expected a number"),
        ("loss=focal loss.alpha=abc", "loss.alpha is abc: expected a number or null"),
    ],
)
def test_a_value_of_another_type_is_refused_before_any_data(override, message):
    config = composed(*override.split())
    with pytest.raises(InputError, match=re.escape(message)):
        check_config(config, spec_of(config))


@pytest.mark.parametrize(
    "group", ["backbone", "callbacks", "embedding", "encoder", "loss", "number", "sequence", "trainer"]
)
def test_the_values_of_every_choice_have_the_types_of_their_arguments(group):
    for choice in options(group):
        place = "encoder@backbone.simple" if group == "encoder" else group
        check_values(composed(f"{place}={choice}"))


def test_a_class_that_cannot_be_found_is_left_to_hydra():
    check_values(composed("+callbacks.mine._target_=no.such.Callback", "+callbacks.mine.patience=abc"))


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        (["early_stopping.monitor=val/acu"], "did you mean 'val/auc' or"),
        (["lr_plateau.monitor=val/simple/acu"], "did you mean 'val/simple/auc' or"),
        (["early_stopping.monitor=val/uncalibrated_logloss"], "did you mean .*'val/logloss'"),
        (["early_stopping.monitor=val/gauc", "~dataset.group"], "did you mean 'val/auc' or"),
        (["early_stopping.monitor=val/complex/auc", "framework=plain", "backbone=dnn"], "did you mean .*'val/auc'"),
    ],
)
def test_a_callback_that_monitors_what_is_not_measured_is_refused_before_any_data(overrides, hint):
    monitor, *others = overrides
    config = composed(f"callbacks.{monitor}", *others)
    name, _, value = monitor.partition("=")
    with pytest.raises(InputError, match=rf"callbacks\.{name} is {value}: {hint}"):
        check_config(config, spec_of(config))


@pytest.mark.parametrize(
    "overrides",
    [
        ["early_stopping.monitor=val/gauc"],
        ["early_stopping.monitor=val/simple/logloss"],
        ["early_stopping.monitor=train/loss"],
        ["early_stopping.monitor=val/uncalibrated_logloss", "calibrate=true"],
        ["early_stopping=null"],
    ],
)
def test_a_callback_can_monitor_what_is_measured(overrides):
    config = composed(f"callbacks.{overrides[0]}", *overrides[1:])
    check_config(config, spec_of(config))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("trainer.max_epochs=0", "trainer.max_epochs is 0: expected an integer, at least 1; or -1 for no limit"),
        ("trainer.max_epochs=-5", "trainer.max_epochs is -5: expected an integer, at least 1"),
        (
            "trainer.max_epochs=2 trainer.check_val_every_n_epoch=3",
            "trainer.check_val_every_n_epoch is 3 and trainer.max_epochs is 2: no epoch would be validated",
        ),
        ("+trainer.max_steps=0", "trainer.max_steps is 0: nothing would be trained"),
        ("+trainer.limit_train_batches=0", "trainer.limit_train_batches is 0: expected a number of batches"),
        ("+trainer.limit_val_batches=0.0", "trainer.limit_val_batches is 0.0: expected a number of batches"),
    ],
)
def test_a_training_without_an_epoch_or_a_validation_is_refused_before_any_data(overrides, message):
    config = composed(*overrides.split())
    with pytest.raises(InputError, match=re.escape(message)):
        check_config(config, spec_of(config))


@pytest.mark.parametrize(
    "overrides",
    [
        *("trainer=overfit", "trainer=smoke", "trainer=profile", "+trainer.limit_train_batches=0.1"),
        *("trainer.max_epochs=-1", "trainer.max_epochs=null", "trainer.max_epochs=-1 +trainer.max_steps=5"),
        "trainer.max_epochs=3 trainer.check_val_every_n_epoch=3",
        "trainer.max_epochs=-1 trainer.check_val_every_n_epoch=3",
        "trainer.check_val_every_n_epoch=null trainer.val_check_interval=100",
    ],
)
def test_a_training_of_any_length_is_allowed(overrides):
    check_length(composed(*overrides.split()).trainer)


def without_folders(*overrides):
    """A config that does not ask for the run's folder, which only a run of Hydra has."""
    config = composed(*overrides).copy()
    config.trainer.default_root_dir = None
    config.callbacks = {name: config.callbacks[name] for name in ("early_stopping", "lr_plateau")}
    return config


@pytest.mark.parametrize(
    ("cuda", "message"), [(None, "built without GPUs: install another build"), ("13.0", "check with nvidia-smi")]
)
def test_a_gpu_that_is_not_there_is_refused_before_any_data(monkeypatch, cuda, message):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", cuda)
    monkeypatch.setattr("tf4ctr.config_checks.trainer_with", lambda config, loggers: None)  # it needs a GPU
    for name in ("gpu", "ddp"):
        with pytest.raises(InputError, match=f"accelerator is gpu, and torch finds no GPU: .*{message}.*trainer=cpu"):
            check_machine(composed(f"trainer={name}"))
    for name in ("cpu", "auto"):
        check_machine(composed(f"trainer={name}"))
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    check_machine(composed("trainer=gpu"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.accelerator=gpuu", "invalid accelerator name"),
        ("+trainer.strategy=dpp", "invalid strategy name"),
        ("callbacks.lr_plateau.factor=1", "callbacks.lr_plateau.factor is 1: expected more than 0 and less than 1"),
        ("callbacks.early_stopping.mode=maxx", "`mode` can be min, max, got maxx"),
    ],
)
def test_what_lightning_refuses_shows_before_any_data(override, message):
    config = without_folders(override)
    check_config(config, spec_of(config))  # a dry run may be for another machine
    with pytest.raises(InstantiationException, match=message):
        check_machine(config)


def test_the_check_does_not_change_the_random_state():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    config = composed()
    check_config(config, spec_of(config))
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("node", "name"),
    [("dataset.training", "pateince"), ("dataset.training.tf", "beta"), ("backbone.training", "learning_rate")],
)
def test_a_typo_below_training_is_an_error(node, name):
    config = composed("dataset=frappe", "backbone=fcn", f"+{node}.{name}=1")
    with pytest.raises(InputError, match=rf"{node}.{name}: unknown name"):
        check_config(config, spec_of(config))


def test_the_names_below_training_are_those_that_groups_look_for():
    texts = [path.read_text() for path in (ROOT / "conf").rglob("*.yaml")]
    looked_for = {name for text in texts for name in re.findall(r"(?:dataset|backbone)\.training\.[a-z_.0-9]+", text)}
    assert looked_for == {
        f"{node}.{name}" for node, names in TRAINING.items() for name in names if f"{node}.{name}" not in TRAINING
    }
