"""A training step must not wait for the device: it reads no value from it, except every N steps.

No accelerator is needed for it: on a CPU the same calls read, and they are counted.
"""

from collections import Counter

import pytest
from torch import Tensor
from torch.nn.functional import embedding
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from test_assembly import composed
from tf4ctr.assembly import build_data, build_module, build_trainer
from tf4ctr.models.rows import Lookup
from tf4ctr.training import optim
from tf4ctr.training.divergence import StopDiverged

# calls that copy a tensor to the host; item, bool, float, int and index are `_local_scalar_dense`
COPIES = ("cpu", "numpy", "tolist", "__array__")
SIZES = ("nonzero", "masked_select", "unique")  # the size of their result is a value


class Reads(TorchDispatchMode):
    """Counts the reads of each step; a tensor of `on_host` is on the host in any training."""

    def __init__(self, trainer, on_host):
        super().__init__()
        self.trainer, self.on_host, self.of_step = trainer, on_host, Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name == "_local_scalar_dense" or any(word in name for word in SIZES):
            self.add(args[0])
        return function(*args, **(kwargs or {}))

    def add(self, tensor):
        if self.trainer.training and not self.on_host(tensor):
            self.of_step[self.trainer.global_step] += 1


class Copies(TorchFunctionMode):
    def __init__(self, reads):
        super().__init__()
        self.reads = reads

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in COPIES:
            self.reads.add(args[0])
        return function(*args, **(kwargs or {}))


@pytest.fixture
def as_on_an_accelerator(monkeypatch):
    """The paths that a CPU does not take."""
    monkeypatch.setattr(StopDiverged, "_reads_for_free", lambda self, loss: False)
    monkeypatch.setattr(optim, "coalesced", Tensor.coalesce)
    monkeypatch.setattr(Lookup, "apply", lambda table, ids, sparse, skipped: embedding(ids, table, sparse=sparse))


@pytest.mark.parametrize("table", ["dense", "rowwise"])
def test_a_step_reads_only_where_it_shows_or_checks(prepared, tmp_path, as_on_an_accelerator, table):
    """With the default callbacks. What torch reads to coalesce rowwise gradients is not counted."""
    config = composed(
        f"embedding={table}",
        *("trainer=cpu", "trainer.max_epochs=1", f"trainer.default_root_dir={tmp_path}", "logger=csv"),
        *("stream.batch_size=4", "backbone.complex.hidden_units=[16]", f"logger.csv.save_dir={tmp_path}"),
        *(f"callbacks.{name}.dirpath={tmp_path}" for name in ("checkpoint_best", "checkpoint_last", "focus")),
    )
    data = build_data(config, prepared)
    module, trainer = build_module(config, data.schema), build_trainer(config)

    def is_step_of_adam(tensor):  # on the host, or on the device and not read (fused)
        return any(tensor.data_ptr() == state["step"].data_ptr() for state in trainer.optimizers[0].state.values())

    reads = Reads(trainer, is_step_of_adam)
    with reads, Copies(reads):
        trainer.fit(module, data)
    assert trainer.global_step == 100
    shown = set(range(10, 100, 10))  # the bar and the logger; step 99 saves, and then the epoch ends
    assert set(reads.of_step) == {0, *shown, 99, 100}
    assert {reads.of_step[step] for step in shown - {50}} == {2}
    assert reads.of_step[50] == 3  # and StopDiverged
    assert "loss" in trainer.progress_bar_callback._shown
