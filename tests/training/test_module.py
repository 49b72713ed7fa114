import shutil
from functools import partial

import pytest
import torch
from lightning import Trainer
from sklearn.metrics import log_loss, roc_auc_score

from conftest import draw_ids
from tf4ctr.data.datamodule import CTRDataModule
from tf4ctr.data.stream import Batch
from tf4ctr.errors import InputError
from tf4ctr.models.calibration import Calibration, platt
from tf4ctr.models.dfm import WeightedSum
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.fm import FM
from tf4ctr.models.encoders.mlp import MLP
from tf4ctr.models.losses import BCELoss, TFLoss
from tf4ctr.models.network import Network
from tf4ctr.models.ssem import SeparateRepresentation
from tf4ctr.training.module import CTRModule
from tf4ctr.training.optim import RowwiseAdam


def make_module(schema, l2=0.0, batch_norm=True, compiled=False, calibrate=False):
    mlp = partial(MLP, hidden_units=[8], batch_norm=batch_norm)
    network = Network(
        schema,
        partial(FieldEmbedding, init_std=0.1),
        4,
        SeparateRepresentation,
        {"simple": FM, "complex": mlp},
        WeightedSum,
        calibrate,
    )
    return CTRModule(schema, network, TFLoss(0.25, 1, 0.7), partial(torch.optim.Adam, lr=1e-2), l2, compiled)


@pytest.fixture
def trainer(tmp_path):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", max_epochs=2, num_sanity_val_steps=0, default_root_dir=tmp_path, **quiet)


def test_l2_as_weight_decay_equals_half_lambda_times_the_squared_norm(schema):
    """One Adam step with the decay against one with (lambda / 2) ||E||^2 in the loss."""
    torch.manual_seed(1)
    # without batch norm: a bias before it has no gradient except rounding noise
    first = make_module(schema, l2=0.3, batch_norm=False)
    torch.manual_seed(1)
    second = make_module(schema, l2=0.0, batch_norm=False)
    batch = Batch(draw_ids(schema, 64), torch.randint(0, 2, (64,)).float(), None)
    for module, explicit in ((first, 0.0), (second, 0.3)):
        optimizer = module.configure_optimizers()
        for _ in range(3):
            optimizer.zero_grad()
            loss = module.loss(module.network(batch.ids), batch.label)["loss"]
            (loss + explicit / 2 * sum(table.square().sum() for table in module.network.tables())).backward()
            optimizer.step()
    for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_an_encoder_has_a_lambda_of_its_own_for_the_tables_that_it_reads_alone(schema):
    module = make_module(schema, l2=0.3)
    module.encoder_l2 = {"simple": 0.0, "complex": 0.5}
    groups = module.configure_optimizers().param_groups
    simple, complex_, linear = module.network.tables()  # the last one has FM's linear weights
    assert [group["weight_decay"] for group in groups] == [0.0, 0.5, 0.0]
    assert [id(table) for table in groups[0]["params"]] == [id(simple), id(linear)]
    assert [id(table) for table in groups[1]["params"]] == [id(complex_)]
    assert sum(len(group["params"]) for group in groups) == len(list(module.network.parameters()))


@pytest.mark.parametrize(("clip", "expected"), [(None, 1.0), (0, 1.0), (0.5, 0.5)])
def test_a_clip_of_0_is_none(schema, clip, expected):
    module = make_module(schema)
    weight = next(module.network.parameters())
    weight.grad = torch.zeros_like(weight)
    weight.grad[0, 0] = 1
    module.configure_gradient_clipping(module.configure_optimizers(), clip)
    assert float(weight.grad.norm()) == pytest.approx(expected, abs=1e-5)


def test_every_parameter_is_optimised_once(schema):
    groups = make_module(schema, l2=0.3).configure_optimizers().param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(ids) == len(set(ids)) == len(list(make_module(schema).network.parameters()))


def test_options_that_do_not_fit_the_network_are_refused(schema, monkeypatch):
    network, options = make_module(schema).network, (BCELoss(), torch.optim.Adam)
    with pytest.raises(InputError, match="embedding.l2 is -0.5"):
        CTRModule(schema, network, *options, embedding_l2=-0.5)
    with pytest.raises(InputError, match="trainer.compile is 1: expected true or false"):
        CTRModule(schema, network, *options, compiled=1)
    with pytest.raises(InputError, match="loss.focus has 3 .*2 encoders"):
        CTRModule(schema, network, TFLoss(0.25, 1, 0.7, focus=[0, 0.5, 1]), torch.optim.Adam)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(InputError, match="needs a C\\+\\+ compiler on a CPU"):
        CTRModule(schema, network, *options, compiled=True)
    next(network.embeddings()).sparse = True
    with pytest.raises(InputError, match="trainer.compile=true needs embedding=dense"):
        CTRModule(schema, network, *options, compiled=True)


def test_logged_metrics_are_those_of_all_the_rows(prepared, trainer):
    data = CTRDataModule(prepared, batch_size=64)
    module = make_module(data.schema)
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    module.eval()
    batches = list(data.test_dataloader())
    label = torch.cat([batch.label for batch in batches])
    with torch.no_grad():
        logits = [
            torch.cat(column) for column in zip(*(module.network(batch.ids)[:3] for batch in batches), strict=True)
        ]
    for prefix, logit in zip(("", "simple/", "complex/"), logits, strict=True):
        probability = torch.sigmoid(logit.double())
        assert module.results[f"test/{prefix}auc"] == pytest.approx(roc_auc_score(label, probability), abs=1e-6)
        assert module.results[f"test/{prefix}logloss"] == pytest.approx(log_loss(label, probability), abs=1e-6)
    assert module.results["test/monitor"] == module.results["test/auc"] + module.results["test/gauc"]
    assert float(trainer.callback_metrics["test/auc"]) == pytest.approx(module.results["test/auc"], abs=1e-6)


def test_calibration_changes_the_fused_logloss_and_nothing_else(prepared, trainer, tmp_path):
    data, results = CTRDataModule(prepared, batch_size=64), {}
    for calibrate in (False, True):
        torch.manual_seed(3)
        module = make_module(data.schema, calibrate=calibrate)
        trainer.fit_loop.epoch_progress.reset()
        trainer.fit(module, data)
        trainer.save_checkpoint(tmp_path / f"{calibrate}.ckpt")
        validated = module.results
        trainer.test(module, data, verbose=False)
        results[calibrate] = validated | module.results
    plain, calibrated = results[False], results[True]
    for stage in ("val", "test"):
        before = calibrated.pop(f"{stage}/uncalibrated_logloss")
        assert before == pytest.approx(plain[f"{stage}/logloss"], abs=1e-6)
    assert calibrated["val/logloss"] < plain["val/logloss"] - 1e-3
    kept = {name: pytest.approx(value, abs=1e-6) for name, value in plain.items() if name[-8:] != "/logloss"}
    assert {name: value for name, value in calibrated.items() if name[-8:] != "/logloss"} == kept
    assert calibrated["test/simple/logloss"] == pytest.approx(plain["test/simple/logloss"], abs=1e-6)

    calibration = module.network.calibration
    without, saved = (torch.load(tmp_path / f"{flag}.ckpt", weights_only=True)["state_dict"] for flag in (False, True))
    assert saved["network.calibration.scale"] == calibration.scale != 1
    assert not any("calibration" in name for name in without)
    rows = list(data.val_dataloader())
    with torch.no_grad():
        logit = torch.cat([module.network.eval()(batch.ids).fused for batch in rows])
    label = torch.cat([batch.label for batch in rows])
    assert calibrated["val/logloss"] == pytest.approx(log_loss(label, torch.sigmoid(logit.double())), abs=1e-6)
    assert torch.stack(platt(calibration.undo(logit), label)) == pytest.approx(
        torch.stack([calibration.scale, calibration.shift]), abs=1e-4
    )


def test_logits_without_order_are_not_calibrated_and_a_warning_says_so(prepared, trainer, monkeypatch, caplog):
    fit = Calibration.fit
    monkeypatch.setattr(Calibration, "fit", lambda self, logit_B, label_B, rows: fit(self, -label_B, label_B))
    data = CTRDataModule(prepared, batch_size=64)
    module = make_module(data.schema, calibrate=True)
    trainer.fit(module, data)
    assert caplog.text.count("not calibrated") == 2  # each validation
    assert module.results["val/uncalibrated_logloss"] == pytest.approx(module.results["val/logloss"], abs=1e-12)


def test_a_validation_of_one_row_is_not_calibrated(prepared, trainer, caplog):
    data = CTRDataModule(prepared, batch_size=64, eval_batch_size=1)
    module = make_module(data.schema, calibrate=True)
    trainer.limit_val_batches = 1
    trainer.fit(module, data)
    assert "not calibrated" in caplog.text
    assert module.results["val/uncalibrated_logloss"] == pytest.approx(module.results["val/logloss"], abs=1e-12)


def test_training_terms_are_averaged_over_rows(prepared, trainer):
    data = CTRDataModule(prepared, batch_size=150)  # 150, 150, 100
    module = make_module(data.schema)
    batches = []
    compute = module.loss.forward

    def forward(logits, label, weight):
        batches.append((len(label), compute(logits, label)))
        return batches[-1][1]

    module.loss.forward = forward
    trainer.fit_loop.max_epochs = 1
    trainer.fit(module, data)
    assert [rows for rows, _ in batches] == [150, 150, 100]
    for name in ("loss", "bce", "tf_simple", "tf_complex"):
        expected = sum(rows * float(terms[name].detach()) for rows, terms in batches) / 400
        assert float(trainer.callback_metrics[f"train/{name}"]) == pytest.approx(expected, rel=1e-6)


def test_the_checkpoint_carries_the_schema_and_loads_as_weights_only(prepared, trainer, tmp_path):
    data = CTRDataModule(prepared, batch_size=64)
    trainer.fit(make_module(data.schema), data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert type(data.schema).from_dict(checkpoint["schema"]) == data.schema


def test_a_compiled_step_is_the_plain_one(prepared, trainer):
    data = CTRDataModule(prepared, batch_size=200)  # all batches have the same size: one graph
    module = make_module(data.schema, compiled=True)
    trainer.fit(module, data)
    assert module.results["val/logloss"] > 0
    batch = next(iter(data.train_dataloader()))
    results = []
    for terms_of in (module.train()._terms, module._terms_of):
        module.zero_grad()
        terms = terms_of(batch.ids, batch.label)
        terms["loss"].backward()
        results.append((terms, [part.grad for part in module.parameters() if part.requires_grad]))
    torch.testing.assert_close(*results)


def test_half_precision_keeps_weights_and_loss_in_float32(prepared, tmp_path):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    results, data = {}, CTRDataModule(prepared, batch_size=64)
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(2)
        module = make_module(data.schema)
        module.make_optimizer = partial(RowwiseAdam, lr=1e-2, fused=True)
        options = {"max_epochs": 1, "precision": precision, "gradient_clip_val": 0.5, "default_root_dir": tmp_path}
        Trainer(accelerator="cpu", **options, **quiet).fit(module, data)
        assert all(parameter.dtype == torch.float32 for parameter in module.parameters())
        batch = next(iter(data.train_dataloader()))
        with torch.autocast("cpu", torch.bfloat16):
            assert module.network(batch.ids).complex.dtype == torch.bfloat16
            assert all(term.dtype == torch.float32 for term in module._terms_of(batch.ids, batch.label).values())
        results[precision] = module.results["val/logloss"]
    assert results["bf16-mixed"] == pytest.approx(results["32-true"], abs=5e-3)
    assert results["bf16-mixed"] != results["32-true"]


def test_without_a_group_there_is_no_gauc(raw_dir, trainer):
    from conftest import make_spec
    from tf4ctr.data.preparation import prepare

    data = CTRDataModule(prepare(make_spec(raw_dir, group=None)), batch_size=64)
    module = make_module(data.schema)
    trainer.fit(module, data)
    assert "val/gauc" not in module.results
    assert module.results["val/monitor"] == module.results["val/auc"]
