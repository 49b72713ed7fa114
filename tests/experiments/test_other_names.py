import pytest
from omegaconf import OmegaConf

from tf4ctr.experiments.choices import choice_names
from tf4ctr.experiments.other_names import MODELS, OPTIONS, choice_hint, deeper_hint, option_hint

CONFIG = OmegaConf.create(
    {"backbone": {"complex": {"hidden_units": [4]}}, "loss": {"alpha": 0.3}, "dataset": {"name": "a"}, "sweep": None}
)


@pytest.mark.parametrize(
    ("word", "value", "hint"),
    [
        ("model", "deepfm", "write backbone=deepfm"),
        ("model", "DIN", "write sequence=attention, with any backbone"),
        ("lr", "1e-4", "write optimizer.lr=1e-4"),
        ("learning_rate", "1", "write optimizer.lr=1"),
        ("batch_size", "9", "write stream.batch_size=9"),
        ("epochs", "9", "write trainer.max_epochs=9"),
        ("num_epochs", "9", "write trainer.max_epochs=9"),
        ("embedding_dim", "9", "write embedding.dim=9"),
        ("embedding_regularizer", "0.1", "write embedding.l2=0.1"),
        ("l2_reg_embedding", "1e-5", "write embedding.l2=LAMBDA, where LAMBDA is 1e-5 times 2 / batch size"),
        ("min_categr_count", "2", "write dataset.min_count=2"),
        ("eval_steps", "100", "write trainer.val_check_interval=100"),
        ("patience", "9", "write callbacks.early_stopping.patience=9"),
        ("gpu", "0", "write trainer=gpu"),
        ("gpus", "2", "write trainer=ddp trainer.devices=2"),
        ("data", "frappe", "write dataset=frappe"),
        ("dropout", "0.1", "write dataset.training.dropout=0.1"),
        ("metric", "auc", "write nothing: AUC"),
        ("workers", "4", "write nothing: a thread reads ahead"),
    ],
)
def test_words_of_other_libraries_lead_to_ours(word, value, hint):
    assert option_hint(word, value, CONFIG).startswith(f"{word}={value}: {hint}")


def test_words_of_a_training_are_no_hint_for_a_program_without_it():
    assert option_hint("lr", "1", OmegaConf.create({"run": None})) is None
    assert option_hint("data", "a", OmegaConf.create({"dataset": None})) == "data=a: write dataset=a"
    assert option_hint("zzz", "1", CONFIG) is None


def test_options_of_the_hints_exist():
    from hydra import compose, initialize_config_dir

    from tf4ctr.experiments.choices import CONF
    from tf4ctr.experiments.resolvers import register_resolvers

    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train")
    for text in OPTIONS.values():
        key = text.partition("=")[0]
        if not text.startswith("nothing"):
            assert OmegaConf.select(config, key) is not None, text
    assert {*MODELS.values()} <= {*choice_names("backbone")}


def test_an_option_without_its_group_is_found_further_down():
    assert deeper_hint("alpha", "1", CONFIG) == "alpha=1: write loss.alpha=1"
    assert deeper_hint("hidden_units", "[1]", CONFIG) == "hidden_units=[1]: write backbone.complex.hidden_units=[1]"
    assert deeper_hint("beta", "1", CONFIG) is None


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("widedeep", "backbone=wide_deep"),
        ("Wide&Deep", "backbone=wide_deep"),
        ("DeepFM", "backbone=deepfm"),
        ("dcn_v2", "backbone=dcnv2"),
        ("FinalMLP", "backbone=finalmlp"),
        ("AutoInt+", "backbone=autoint"),
        ("LogisticRegression", "backbone=lr"),
        ("GDCN-P", "backbone=gdcn"),
        ("WDL", "backbone=wide_deep"),
        ("PNN", "backbone=ipnn"),
        ("DCNv3", "backbone=fcn"),
        ("DIN", "sequence=attention, with any backbone; as published: backbone=dnn sequence=attention framework=plain"),
        ("dien", "sequence=interest, with any backbone"),
        ("BST", "sequence=transformer, with any backbone"),
    ],
)
def test_published_names_lead_to_a_choice(name, found):
    assert choice_hint("backbone", name, choice_names("backbone")).startswith(f"backbone={name}: write {found}")


def test_names_that_fit_nothing_have_no_hint():
    assert choice_hint("backbone", "zzz", choice_names("backbone")) is None
    assert choice_hint("backbone", "", choice_names("backbone")) is None
    assert choice_hint("sequence", "DIN", choice_names("sequence")) == "sequence=DIN: write sequence=attention"
