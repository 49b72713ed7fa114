"""The benchmarks run, and both sides do the same work; their times are not checked."""

import pytest

from benchmarks import bench


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(bench, "BATCH", 50)


def test_both_streams_give_every_row(prepared):
    ours, theirs = bench.stream(prepared)
    assert ours() == theirs() == 400


def test_an_epoch_runs_in_lightning_and_bare(prepared):
    in_lightning, bare = bench.epoch(prepared)
    assert in_lightning() == bare() == 8


@pytest.mark.parametrize("sparse", [True, False])
def test_steps_over_a_table_run(sparse):
    (five,) = bench.steps(440, sparse)
    first, second = five(), five()
    assert second < first  # the loss falls
