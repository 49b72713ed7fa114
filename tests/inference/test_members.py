import numpy as np
import polars as pl
import pytest
import torch

from inference.fixtures import with_other_weights
from tf4ctr.errors import InputError
from tf4ctr.inference.members import ensemble_of, load_members, mean_probability, named_folders


def test_the_mean_is_that_of_the_probabilities():
    logits_KB = torch.randn(3, 50, dtype=torch.float64) * 4
    p_B = (1 / (1 + np.exp(-logits_KB.numpy()))).mean(0)
    np.testing.assert_allclose(mean_probability(logits_KB), np.log(p_B / (1 - p_B)), rtol=1e-9)
    of_heads = ensemble_of([*logits_KB])
    assert [*of_heads] == ["fused", "run_1", "run_2", "run_3"]
    assert torch.equal(of_heads["run_2"], logits_KB[1])


def test_the_mean_is_finite_and_ordered_where_a_sigmoid_rounds_to_0_or_1():
    high = mean_probability(torch.tensor([[300.0, 301.0, 900.0], [300.0, 301.0, 900.0]]))
    torch.testing.assert_close(high, torch.tensor([300.0, 301.0, 900.0]))
    torch.testing.assert_close(mean_probability(torch.tensor([[-300.0], [-300.0]])), torch.tensor([-300.0]))
    torch.testing.assert_close(mean_probability(torch.tensor([[300.0], [-300.0]])), torch.tensor([0.0]))


def test_only_the_runs_of_an_ensemble_have_names(tmp_path):
    assert named_folders([tmp_path]) == {}
    assert named_folders([tmp_path, tmp_path / "b"]) == {"run_1": str(tmp_path), "run_2": f"{tmp_path}/b"}


def test_a_run_counts_once(tags_run, tmp_path):
    run = tags_run("csv")
    (tmp_path / "link").symlink_to(run)
    with pytest.raises(InputError, match=r"run= names .*link twice: an ensemble has each run once"):
        load_members([run, tmp_path / "link"])
    assert len(load_members([run, with_other_weights(run, tmp_path / "other")])) == 2


def test_runs_that_read_other_columns_are_refused(make_run):
    rows = pl.DataFrame({"click": [0, 1], "user": [1, 2], "item": [1, 2], "hour": [3, 4]})
    runs = [make_run(rows, ["user", name], "csv") for name in ("item", "hour", {"name": "thing", "column": "item"})]
    with pytest.raises(InputError, match=r"run_0/run and .*run_1/run do not .* they differ in 'hour', 'item'\. "):
        load_members(runs[:2])
    # the same raw column under another name
    assert [[*member.encoder.values] for member in load_members(runs[::2])] == [["user", "item"], ["user", "thing"]]
