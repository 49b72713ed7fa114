import functools
import importlib
import re
from itertools import product
from pydoc import locate
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from omegaconf import OmegaConf

from conftest import ROOT, draw_ids
from tf4ctr.assembly import MOVED, build_all, build_module, build_network, build_trainer
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.errors import InputError
from tf4ctr.experiments.choices import own_names
from tf4ctr.experiments.resolvers import register_resolvers
from tf4ctr.models import dfm, losses, ssem
from tf4ctr.models.encoders.fm import FM
from tf4ctr.models.encoders.linear import Linear
from tf4ctr.models.encoders.mlp import MLP
from tf4ctr.training.progress import ProgressBar
from tf4ctr.training.summary import RunSummary, summary_of


@functools.cache
def composed(*overrides):
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", list(overrides))


def spec_of(config):
    return DatasetSpec.from_config(OmegaConf.to_container(config.dataset, resolve=True))


def options(group):
    """The choices of a group, of which some have folders of their own."""
    return sorted(name for name in own_names(group) if "/" not in name)


# backbones of one encoder
ALONE = (
    *("afm", "dlrm", "dnn", "edcn", "eulernet", "ffm", "fignn", "fm", "fmfm", "fwfm", "hofm"),
    *("ipnn", "lr", "masknet", "onn", "sam", "wukong"),
)


PAIRED = sorted(set(options("backbone")) - set(ALONE))
SSEMS, DFMS = options("ssem"), options("dfm")
# every backbone with every ssem, beside another dfm each; deepfm with every pair of them
COVER = [
    (backbone, *pair)
    for number, backbone in enumerate(PAIRED)
    for pair in (
        product(SSEMS, DFMS)
        if backbone == "deepfm"
        else [(ssem_, DFMS[(number + place) % len(DFMS)]) for place, ssem_ in enumerate(SSEMS)]
    )
]


def test_the_combinations_cover_every_part():
    for backbone in PAIRED:
        pairs = [pair for name, *pair in COVER if name == backbone]
        assert {ssem_ for ssem_, _ in pairs} == set(SSEMS)
        assert len({dfm_ for _, dfm_ in pairs}) >= len(SSEMS)
    for dfm_ in DFMS:
        assert sum(name != "deepfm" and dfm_ in pair for name, *pair in COVER) >= len(PAIRED) // 2


@pytest.mark.parametrize(("backbone", "ssem_", "dfm_"), COVER)
def test_every_combination_builds_and_takes_a_step(schema, backbone, ssem_, dfm_):
    config = composed(f"backbone={backbone}").copy()
    config.ssem, config.dfm = composed(f"ssem={ssem_}").ssem, composed(f"dfm={dfm_}").dfm
    assert a_step_changes(build_module(config, schema), schema)


@pytest.mark.parametrize("backbone", options("backbone"))
def test_every_backbone_runs_plain_and_uses_all_its_parameters(schema, backbone):
    module = build_module(composed(f"backbone={backbone}", "framework=plain"), schema)
    assert len(module.network.encoders) == (1 if backbone in ALONE else 2)
    assert a_step_changes(module, schema)
    assert all(part.grad is not None for part in module.network.parameters() if part.requires_grad)
    with torch.autocast("cpu", torch.bfloat16):
        loss = module._terms_of(draw_ids(schema, 32), torch.randint(0, 2, (32,)).float())["loss"]
    loss.backward()
    parameters = [part for part in module.network.parameters() if part.requires_grad]
    assert all(part.grad.isfinite().all() for part in parameters)


@pytest.mark.parametrize("backbone", options("backbone"))
def test_the_tables_of_an_encoder_follow_the_embedding_group(schema, backbone):
    module = build_module(composed(f"backbone={backbone}", "framework=plain", "embedding=rowwise"), schema)
    assert all(table.sparse for table in module.network.embeddings())


@pytest.mark.parametrize("backbone", ["ffm", "hofm"])
def test_an_encoder_of_several_tables_trains_them_all(schema, backbone):
    module = build_module(composed(f"backbone={backbone}", "framework=plain", "embedding=rowwise"), schema)
    assert len(list(module.network.embeddings())) == {"ffm": 2, "hofm": 3}[backbone]
    assert a_step_changes(module, schema)
    named = composed(f"backbone={backbone}", "embedding.table.init_std=0.5")
    assert named.backbone.simple.init_std == 0.5


def test_a_backbone_has_its_own_initial_deviation(schema):
    assert composed("backbone=dnn").embedding.table.init_std == 0.01
    assert composed("backbone=fmfm").embedding.table.init_std == 0.1
    assert composed("backbone=fmfm", "embedding.table.init_std=0.5").embedding.table.init_std == 0.5
    assert composed("backbone=fmfm", "experiment=paper/frappe").embedding.table.init_std == 1e-4
    torch.manual_seed(0)
    module = build_module(composed("backbone=fmfm", "framework=plain"), schema)
    assert list(module.network.encoders) == ["simple"]
    assert next(module.network.embeddings()).weight[1:].std().item() == pytest.approx(0.1, rel=0.5)


def test_a_backbone_has_its_own_learning_rate_and_patience():
    def recipe(*overrides):
        config = composed("dataset=frappe", *overrides)
        callbacks = config.callbacks
        return config.optimizer.lr, callbacks.early_stopping.patience, callbacks.lr_plateau.patience

    assert recipe("backbone=dnn") == (1e-3, 4, 1)
    assert recipe("backbone=fignn") == (3e-3, 10, 4)
    assert recipe("backbone=fignn", "optimizer.lr=1e-4", "callbacks.early_stopping.patience=3") == (1e-4, 3, 4)
    assert recipe("backbone=fignn", "callbacks=published") == (3e-3, 2, 0)
    assert recipe("backbone=fignn", "experiment=bars/frappe_x1/fignn") == (1e-3, 2, 0)
    many_steps = "+dataset.training.patience=2", "+dataset.training.lr_patience=0"  # of an epoch, as in dataset=avazu
    assert recipe("backbone=fcn", *many_steps) == (1e-3, 2, 0)


def test_the_lambda_of_an_encoder_comes_from_its_yaml(schema):
    module = build_module(
        composed("backbone=wide_deep", "embedding.l2=0.2", "backbone.complex.embedding_l2=0.4"), schema
    )
    assert (module.embedding_l2, module.encoder_l2) == (0.2, {"simple": 0.2, "complex": 0.4})
    with pytest.raises(InputError, match=r"backbone\.simple\.embedding_l2 is -1"):
        build_module(composed("backbone.simple.embedding_l2=-1"), schema)


@pytest.mark.parametrize("backbone", ["lr", "dnn"])
@pytest.mark.parametrize(
    "overrides", [(), ("framework=plain", "ssem=gm"), ("framework=plain", "dfm=cf"), ("framework=plain", "loss=tf")]
)
def test_one_encoder_runs_plain_only(schema, backbone, overrides):
    with pytest.raises(InputError, match="one( encoder|: add|.*framework=plain)"):
        build_module(composed(f"backbone={backbone}", *overrides), schema)


def test_logistic_regression_has_one_weight_per_id(schema):
    network = build_network(composed("backbone=lr", "framework=plain"), schema)
    assert sum(parameter.numel() for parameter in network.parameters()) == schema.num_ids + 1


def test_finalmlp_plain_adds_the_bilinear_fusion_of_its_encoders(schema):
    plain = build_network(composed("backbone=finalmlp", "framework=plain"), schema)
    assert isinstance(plain.dfm.interaction, dfm.BilinearFusion)
    assert isinstance(build_network(composed("backbone=finalmlp"), schema).dfm, dfm.WeightedSum)


def test_a_third_encoder_takes_one_override(schema):
    module = build_module(
        composed("+encoder@backbone.middle=cross_v2", "ssem=moe", "dfm=vf", "loss.focus=[0,0.4,1]"), schema
    )
    assert list(module.network.encoders) == ["simple", "middle", "complex"]
    assert a_step_changes(module, schema)
    assert "val/middle/auc" in {f"val/{name}" for name in module.metrics["val"].metrics}


@pytest.mark.parametrize("loss", options("loss"))  # with one backbone: a loss depends on the logits only
def test_every_loss_builds_and_takes_a_step(schema, loss):
    assert a_step_changes(build_module(composed(f"loss={loss}"), schema), schema)


def test_a_loss_of_two_passes_gets_two_passes_of_one_batch(schema, monkeypatch):
    module = build_module(composed("backbone=qnn", "loss=self_ensemble"), schema).train()
    passes = []
    loss = module.loss.forward
    monkeypatch.setattr(module.loss, "forward", lambda *rows: passes.append(rows[:2]) or loss(*rows))
    module._terms_of(draw_ids(schema, 32), torch.randint(0, 2, (32,)).float())["loss"].backward()
    first, second = passes[0]
    assert not torch.equal(first.fused, second.fused)  # another dropout mask
    assert all(part.grad is not None for part in module.network.encoders.parameters() if part.requires_grad)


def a_step_changes(module, schema):
    optimizer = module.configure_optimizers()
    terms = module._terms_of(draw_ids(schema, 32), torch.randint(0, 2, (32,)).float())
    terms["loss"].backward()
    before = [parameter.detach().clone() for parameter in module.network.parameters()]
    optimizer.step()
    return any(not torch.equal(a, b) for a, b in zip(before, module.network.parameters(), strict=True))


@pytest.mark.parametrize("backbone", options("backbone"))
def test_every_backbone_is_one_graph_with_its_loss(schema, backbone, monkeypatch):
    """The graph, run without a backend's code, gives the same terms and gradients."""
    parts = ("ssem=moe", "dfm=vf") if backbone == "deepfm" else ("framework=plain",)
    config = composed(f"backbone={backbone}", *parts)
    module = build_module(config, schema).train()
    ids, label = draw_ids(schema, 32), torch.randint(0, 2, (32,)).float()
    # graphs compute their products without oneDNN, which sums in another order
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    results = []
    torch.compiler.reset()
    for terms_of in (
        torch.compile(module._terms_of, fullgraph=True, dynamic=False, backend="aot_eager"),
        module._terms_of,
    ):
        torch.manual_seed(4)
        module.zero_grad()
        terms = terms_of(ids, label)
        terms["loss"].backward()
        results.append((terms, [part.grad for part in module.parameters() if part.requires_grad]))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("encoder", options("encoder"))
@pytest.mark.parametrize("place", ["simple", "complex"])
def test_every_encoder_can_be_simple_or_complex(schema, encoder, place):
    network = build_network(composed(f"encoder@backbone.{place}={encoder}"), schema)
    assert network(draw_ids(schema, 8)).fused.shape == (8,)


def test_framework_plain_is_shared_sum_and_bce(schema):
    module = build_module(composed("framework=plain"), schema)
    assert isinstance(module.network.ssem, ssem.Shared)
    assert isinstance(module.network.dfm, dfm.Sum)
    assert isinstance(module.loss, losses.BCELoss)


def test_a_part_named_beside_the_framework_wins(schema):
    module = build_module(composed("framework=plain", "ssem=ser"), schema)
    assert isinstance(module.network.ssem, ssem.SeparateRepresentation)
    assert isinstance(module.loss, losses.BCELoss)


def test_backbones_are_what_their_papers_say(schema):
    deepfm = build_network(composed("backbone=deepfm"), schema)
    assert isinstance(deepfm.encoders["simple"], FM)
    assert isinstance(deepfm.encoders["complex"], MLP)
    other = build_network(composed("backbone=deepfm", "encoder@backbone.simple=linear"), schema)
    assert isinstance(other.encoders["simple"], Linear)


def test_the_paper_experiment_sets_the_published_values():
    config = composed("experiment=paper/frappe")
    assert (config.dataset.name, config.embedding.l2, config.embedding.dim, config.stream.batch_size) == (
        "frappe",
        0.1,
        16,
        10_000,
    )
    assert (config.loss.alpha, config.loss.gamma, config.loss.c, config.optimizer.lr) == (0.25, 1, 0.7, 1e-3)
    assert config.backbone.simple.hidden_units == [400, 400]
    assert config.backbone.complex.hidden_units == [400, 400, 400]
    assert (config.backbone.complex.dropout, config.trainer.gradient_clip_val) == (0.2, 10)
    assert composed("experiment=paper/frappe", "loss.c=0.9").loss.c == 0.9


def test_a_framework_beside_an_experiment_removes_its_parts_only(schema):
    """An ablation of the published settings removes what its name says, and nothing else."""
    whole = build_module(composed("experiment=paper/frappe"), schema)
    parts = {"ssem": ssem.SeparateRepresentation, "dfm": dfm.WeightedSum, "loss": losses.TFLoss}
    plain = {"ssem": ssem.Shared, "dfm": dfm.Sum, "loss": losses.BCELoss}
    for framework, removed in {
        "tf4ctr": (),
        "without_tf_loss": ("loss",),
        "without_ssem": ("ssem",),
        "without_dfm": ("dfm",),
        "four_heads": (),
        "plain": plain,
    }.items():
        for experiment in ("paper/frappe", "paper/movielens_1m"):
            module = build_module(composed(f"experiment={experiment}", f"framework={framework}"), schema)
            built = {"ssem": module.network.ssem, "dfm": module.network.dfm, "loss": module.loss}
            assert {name: type(part) for name, part in built.items()} == {
                **parts,
                **{name: plain[name] for name in removed},
            }
    assert list(whole.network.encoders) == ["simple", "complex"]


@pytest.mark.parametrize("backbone", ["deepfm", "finalnet"])
def test_four_heads_are_two_mlps_between_the_backbones_encoders(schema, backbone):
    config = composed("framework=four_heads", f"backbone={backbone}", "dataset=movielens_1m")
    network = build_module(config, schema).network
    whole = build_module(composed("framework=tf4ctr", f"backbone={backbone}"), schema).network
    assert list(network.encoders) == ["simple", "m1", "m2", "complex"]
    kinds = {name: type(encoder) for name, encoder in network.encoders.items()}
    assert kinds == {name: type(encoder) for name, encoder in whole.encoders.items()} | {"m1": MLP, "m2": MLP}
    assert (config.loss.alpha, config.loss.gamma, config.loss.c) == (0.25, 1, 0.7)
    assert composed("framework=four_heads", "loss.gamma=2").loss.gamma == 2
    with pytest.raises(InputError, match=r"add one, as in \+encoder@backbone.simple=mlp"):
        build_module(composed("framework=four_heads", "backbone=dnn"), schema)


def test_the_tf_loss_follows_the_dataset_unless_set():
    assert tuple(composed("experiment=paper/movielens_1m").loss[key] for key in ("alpha", "gamma", "c")) == (
        0.25,
        2,
        0.8,
    )
    assert tuple(composed("dataset=avazu").loss[key] for key in ("alpha", "gamma", "c")) == (0.25, 1, 0.7)
    assert composed("dataset=movielens_1m", "loss.gamma=1").loss.gamma == 1


def test_l2_and_dropout_follow_the_dataset_unless_set():
    assert composed("dataset=frappe").embedding.l2 == 0.1
    config = composed("dataset=frappe", "embedding.l2=0.3", "backbone.complex.dropout=0.5")
    assert (config.embedding.l2, config.backbone.complex.dropout) == (0.3, 0.5)


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_a_class_that_moved_is_built_by_its_old_name(old, new):
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(old.rpartition(".")[0])
    part = {"_target_": old, "_partial_": True}
    (built,) = build_all(OmegaConf.create({"a": {"_target_": "builtins.dict", "inside": part, "several": [part]}}))
    assert built["inside"].func is locate(new)
    assert built["several"][0].func is locate(new)


def test_every_class_of_a_config_of_version_0_1_0_is_found():
    config = OmegaConf.load(ROOT / "tests" / "checkpoints" / "0.1.0" / "config.yaml")
    targets = re.findall(r"_target_: (tf4ctr\S+)", OmegaConf.to_yaml(config))
    assert "tf4ctr.callbacks.LastCheckpoint" in targets
    assert all(locate(MOVED.get(target, target)) for target in targets)


def test_without_summary_and_bar_there_is_a_summary_and_no_bar(tmp_path):
    config = OmegaConf.create(
        {
            "trainer": {"_target_": "lightning.pytorch.Trainer", "accelerator": "cpu", "compile": False},
            "callbacks": {"summary": None, "progress_bar": None},
            "logger": {},
        }
    )
    trainer = build_trainer(config)
    assert isinstance(summary_of(trainer.callbacks), RunSummary)
    assert trainer.progress_bar_callback is None
    config.callbacks.summary = {"_target_": "tf4ctr.callbacks.RunSummary", "monitor": "val/auc"}
    config.callbacks.progress_bar = {"_target_": "tf4ctr.training.progress.ProgressBar", "every_n_train_steps": 1}
    trainer = build_trainer(config)
    assert [callback.monitor for callback in trainer.callbacks if isinstance(callback, RunSummary)] == ["val/auc"]
    assert isinstance(trainer.progress_bar_callback, ProgressBar)


@pytest.mark.parametrize(("on", "expected"), [(CPUAccelerator, "highest"), (CUDAAccelerator, "medium")])
def test_the_precision_of_products_is_that_of_an_accelerator_only(monkeypatch, on, expected):
    monkeypatch.setattr("tf4ctr.assembly.build", lambda node, **options: SimpleNamespace(accelerator=on(), node=node))
    config = OmegaConf.create({"trainer": {"matmul_precision": "medium"}, "callbacks": {}, "logger": {}})
    before = torch.get_float32_matmul_precision()
    try:
        trainer = build_trainer(config)
        assert torch.get_float32_matmul_precision() == expected
    finally:
        torch.set_float32_matmul_precision(before)
    assert not trainer.node  # Lightning's trainer does not know the option


def test_build_all_skips_what_is_null():
    config = OmegaConf.create({"a": {"_target_": "builtins.dict", "x": 1}, "b": None})
    assert build_all(config) == [{"x": 1}]
    assert build_all(None) == []
