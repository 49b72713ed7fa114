import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from tf4ctr.experiments.choices import CONF
from tf4ctr.experiments.origins import read_settings
from tf4ctr.experiments.resolvers import register_resolvers


def settings_of(*overrides, folders=(CONF,)):
    """The settings by key, for a command line."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        whole = compose("train", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(whole)
    config = whole.copy()
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    settings = read_settings(config, whole.hydra.runtime.choices, overrides, folders)
    assert len({setting.key for setting in settings}) == len(settings)
    return {setting.key: (setting.value, setting.origin) for setting in settings}


@pytest.fixture(autouse=True)
def _no_hydra():
    yield
    HydraConfig.instance().cfg = None


def test_without_overrides_only_the_datasets_values_are_shown():
    assert settings_of() == {
        "embedding.l2": ("0.05", "dataset"),
        "backbone.complex.dropout": ("0.1", "dataset"),
        "stream.batch_size": ("2048", "dataset"),
        "callbacks.early_stopping.patience": ("2", "dataset"),
        "callbacks.early_stopping.min_delta": ("0.001", "dataset"),
        "callbacks.lr_plateau.patience": ("0", "dataset"),
        "callbacks.lr_plateau.min_delta": ("0.001", "dataset"),
    }


def test_each_setting_has_the_place_that_set_it():
    overrides = ["experiment=paper/frappe", "framework=plain", "optimizer.lr=5e-4", "backbone.complex.dropout=0"]
    settings = settings_of(*overrides, "~callbacks.focus", "+trainer.limit_test_batches=2", "seed=7")
    assert settings["experiment"] == ("paper/frappe", "command line")
    assert settings["dataset"] == ("frappe", "experiment=paper/frappe")
    assert settings["backbone"] == ("dual_mlp", "experiment=paper/frappe")
    assert settings["embedding.dim"] == ("16", "experiment=paper/frappe")
    assert settings["optimizer.lr"] == ("5e-4", "command line")  # and not the experiment's
    assert settings["ssem"] == ("shared", "framework=plain")
    assert settings["loss"] == ("bce", "framework=plain")
    assert settings["embedding.l2"] == ("0.1", "dataset")
    assert settings["backbone.complex.dropout"] == ("0", "command line")
    assert settings["backbone.simple.dropout"] == ("0.2", "dataset")
    assert settings["~callbacks.focus"] == ("removed", "command line")
    assert settings["trainer.limit_test_batches"] == ("2", "command line")
    assert settings["seed"] == ("7", "command line")
    assert "loss.alpha" not in settings


def test_the_datasets_values_of_the_loss_are_shown_only_if_it_has_some():
    assert settings_of("dataset=frappe")["loss.gamma"] == ("1", "dataset")
    assert "loss.gamma" not in settings_of("dataset=avazu")


def test_a_value_of_the_backbone_is_shown():
    assert settings_of("backbone=fmfm")["embedding.table.init_std"] == ("0.1", "backbone")
    named = settings_of("backbone=fmfm", "embedding.table.init_std=0.5")
    assert named["embedding.table.init_std"] == ("0.5", "command line")
    assert settings_of("backbone=fcn", "dataset=frappe")["callbacks.early_stopping.patience"] == ("10", "backbone")
    assert settings_of("backbone=fcn", "dataset=avazu")["callbacks.early_stopping.patience"] == ("2", "dataset")


def test_a_value_of_several_keys_hides_the_values_in_it():
    settings = settings_of("dataset=frappe", "backbone.complex={hidden_units:[4],dropout:0.5}")
    assert settings["backbone.complex"] == ("{hidden_units:[4],dropout:0.5}", "command line")
    assert "backbone.complex.dropout" not in settings


def test_an_experiment_that_begins_from_another_has_the_values_of_both(tmp_path):
    (tmp_path / "experiment" / "own").mkdir(parents=True)
    (tmp_path / "experiment" / "own" / "base.yaml").write_text("# @package _global_\noptimizer:\n  lr: 7e-4\n")
    (tmp_path / "experiment" / "own" / "long.yaml").write_text(
        "# @package _global_\ndefaults:\n  - own/base\n  - _self_\ntrainer:\n  max_epochs: 9\n"
    )
    search = f"hydra.searchpath=[file://{tmp_path}]"
    settings = settings_of(search, "experiment=own/long", folders=(CONF, tmp_path))
    assert settings["optimizer.lr"] == ("0.0007", "experiment=own/long")
    assert settings["trainer.max_epochs"] == ("9", "experiment=own/long")


def test_a_choice_on_the_command_line_is_not_that_of_a_framework():
    settings = settings_of("framework=plain", "loss=focal")
    assert settings["loss"] == ("focal", "command line")
