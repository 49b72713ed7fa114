"""No history reveals the future: a label that only a later row tells cannot be learned."""

from functools import partial

import numpy as np
import polars as pl
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from conftest import ROOT, make_spec
from tf4ctr.data.preparation import prepare
from tf4ctr.data.schema import Schema
from tf4ctr.data.stream import MemoryStream
from tf4ctr.metrics import auc
from tf4ctr.models.dfm import Sum, WeightedSum
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.mlp import MLP
from tf4ctr.models.losses import BCELoss, TFLoss
from tf4ctr.models.network import Network
from tf4ctr.models.ssem import SeparateRepresentation, Shared

SEQUENCES = sorted(path.stem for path in (ROOT / "conf" / "sequence").glob("*.yaml"))
USERS, STEPS = 150, 50


def write_log(folder):
    """Two rows per user and moment; each item tells two labels, neither of which is the row's own.

    They are the labels of the other row of the same moment, and of the same side's row one moment
    before. So the label of a row is told by the other row of its moment, and by a later row.
    """
    folder.mkdir()
    random = np.random.default_rng(0)
    label = random.integers(0, 2, (2, USERS, STEPS))  # side, user, moment
    other, before = label[::-1], np.roll(label, 1, 2)
    side, user, time = np.indices(label.shape)
    items = [f"{s}{o}{b}" for s, o, b in zip(side.flatten(), other.flatten(), before.flatten(), strict=True)]
    columns = {"click": label, "user": user, "time": time, "back": STEPS - time}
    frame = pl.DataFrame({"item": items, **{name: values.flatten() for name, values in columns.items()}})
    frame.sample(fraction=1.0, shuffle=True, seed=1).write_csv(folder / "all.csv")
    return folder


def prepared(raw, order, where=None):
    history = {"name": "history", "of": "item", "by": "user", "order": order, "width": 5}
    histories = [{**history, **({"where": where} if where else {})}]
    layouts = [{"reader": "csv", "all": "all.csv"}]
    spec = make_spec(raw, fields=["item"], histories=histories, layouts=layouts, group=None)
    return prepare(spec)


@pytest.fixture(scope="module")
def forwards(tmp_path_factory):
    return prepared(write_log(tmp_path_factory.mktemp("log") / "raw"), "time")


@pytest.fixture(scope="module")
def backwards(tmp_path_factory):
    """The same log with time reversed: here the history has what comes later."""
    return prepared(write_log(tmp_path_factory.mktemp("log") / "raw"), "back")


def measured_auc(folder, sequence, framework):
    """AUC on the test split of a small network that was trained for some epochs."""
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        factory = instantiate(compose("train", [f"sequence={sequence}"]).sequence)
    schema = Schema.load(folder)
    mlp = partial(MLP, hidden_units=[16], dropout=0.0)
    embedding = partial(FieldEmbedding, init_std=0.1, sequence=factory)
    if framework == "plain":
        network, loss = Network(schema, embedding, 8, Shared, {"complex": mlp}, Sum), BCELoss()
    else:
        network = Network(schema, embedding, 8, SeparateRepresentation, {"simple": mlp, "complex": mlp}, WeightedSum)
        loss = TFLoss(alpha=0.25, gamma=2, c=0.8)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    stream = MemoryStream(folder, "train", 512, shuffle=True)
    for epoch in range(4):
        stream.start_epoch(epoch)
        for batch in stream:
            terms = loss(network(batch.ids), batch.label, None)
            total = terms["loss"] + (network.auxiliary() or 0)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
    network.eval()
    with torch.inference_mode():
        batches = list(MemoryStream(folder, "test", 4096))
        logits = torch.cat([network(batch.ids).fused for batch in batches])
    return float(auc(logits, torch.cat([batch.label for batch in batches])))


@pytest.mark.parametrize("framework", ["plain", "tf4ctr"])
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_a_label_that_only_the_future_tells_is_not_learned(forwards, sequence, framework):
    # with 1,500 rows, the deviation of an AUC of 0.5 is 0.015
    assert pl.read_parquet(forwards / "test.parquet").height > 1400
    assert abs(measured_auc(forwards, sequence, framework) - 0.5) < 0.05


@pytest.mark.parametrize("sequence", ["gru", "attention"])
def test_the_same_label_is_learned_once_time_is_reversed(backwards, sequence):
    """The test above can fail: with the future in the history, the AUC is far above 0.5."""
    assert measured_auc(backwards, sequence, "plain") > 0.6
