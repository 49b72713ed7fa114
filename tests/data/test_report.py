import numpy as np
import polars as pl
import pytest

from conftest import CSV, make_spec
from tf4ctr.data import report
from tf4ctr.data.manifest import read_manifest
from tf4ctr.data.preparation import prepare
from tf4ctr.data.schema import Schema


@pytest.fixture
def folder(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    rows = {"train": "1,u1,a|b\n0,u1,a\n1,u2,\n0,u1,a|c|a\n", "valid": "0,u3,a|z\n1,u1,z\n", "test": "0,u1,a\n"}
    for split, text in rows.items():
        (raw / f"{split}.csv").write_text("click,user,tags\n" + text)
    fields = ["user", {"name": "tags", "separator": "|", "width": 2}]
    return prepare(make_spec(raw, fields=fields, group=None, layouts=[CSV]))


def test_shares_of_unknown_values_exclude_padding(folder):
    schema = Schema.load(folder)
    # training contains u1 u1 u2 u1 and [a b] [a] [missing] [a c]; known are u1 and a, the others
    # occur once
    assert report.out_of_vocabulary(folder, schema, "train") == {"user": 1 / 4, "tags": 3 / 6}
    assert report.out_of_vocabulary(folder, schema, "valid") == {"user": 1 / 2, "tags": 2 / 3}
    assert read_manifest(folder)["splits"]["valid"]["out_of_vocabulary"] == {
        "user": 1 / 2,
        "tags": pytest.approx(2 / 3),
    }


def test_the_report_shows_rows_rates_vocabularies_and_top_values(folder):
    text = (folder / "report.md").read_text()
    assert "| train | 4 | 0.5000 |" in text
    assert "| user | 3 | 25.00% | 50.00% | 0.00% | `u1` 75.0% |" in text
    assert "| tags | 3 | 50.00% | 66.67% | 0.00% | `a` 100.0% |" in text
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_value_with_a_bar_does_not_break_the_table(folder, tmp_path):
    schema = Schema.load(folder)
    splits = {"train": {"rows": 4, "click_rate": 0.5, "out_of_vocabulary": {"user": 0.0, "tags": 0.0}}}
    top = {name: pl.DataFrame({name: ["x|y"], "count": [2]}) for name in ("user", "tags")}
    report.write(tmp_path, schema, splits, top)
    assert "`x/y` 50.0%" in (tmp_path / "report.md").read_text()


PAST = [
    {"name": "past", "kind": "sequence", "separator": "|", "width": 5},
    {"name": "kinds", "kind": "sequence", "separator": "|", "width": 5, "aligned_with": "past"},
    {"name": "seen", "kind": "sequence", "separator": "|", "width": 2, "of": "user"},
]


def prepare_pasts(folder, lengths, seen):
    """A dataset whose rows have these many values in `past` and `kinds`, and the text `seen`."""
    raw = folder / "raw"
    raw.mkdir()
    for split, counts in lengths.items():
        past = ["|".join(f"p{place}" for place in range(count)) for count in counts]
        kinds = ["|".join("k" for _ in range(count)) for count in counts]
        rows = {"click": [0, 1] * (len(counts) // 2), "user": ["u"] * len(counts), "past": past, "kinds": kinds}
        pl.DataFrame({**rows, "seen": [seen] * len(counts)}).write_csv(raw / f"{split}.csv")
    return prepare(make_spec(raw, fields=["user", *PAST], group=None, layouts=[CSV], min_count=1))


def test_the_report_shows_the_lengths_of_histories(tmp_path):
    random = np.random.default_rng(2)
    lengths = {split: random.integers(0, 8, rows) for split, rows in (("train", 50), ("valid", 20), ("test", 6))}
    lengths["valid"] = lengths["valid"].clip(1, 4)
    folder = prepare_pasts(tmp_path, lengths, "u|v|u")
    schema, text = Schema.load(folder), (folder / "report.md").read_text()
    for split, counts in lengths.items():
        kept = np.minimum(counts, 5)
        quartiles = np.quantile(kept, [0.25, 0.5, 0.75], method="inverted_cdf").tolist()
        shown = [f"{(kept == 0).mean():.2%}", f"{kept.mean():.1f}", *map(str, quartiles), str(kept.max()), "5"]
        assert f"| past, kinds | {split} | {' | '.join(shown)} |" in text
        assert f"| seen | {split} | 0.00% | 2.0 | 2 | 2 | 2 | 2 | 2 |" in text
        found = report.lengths(folder, schema, split)
        assert list(found) == ["past", "seen"]
        assert found["past"]["mean"] == pytest.approx(kept.mean())
    values = [place for count in lengths["train"] for place in range(count)[-5:]]
    most = max(range(7), key=values.count)
    share = values.count(most) / len(values)
    assert f"| past | 9 | 0.00% | 0.00% | 0.00% | `p{most}` {share:.1%}," in text
    assert "| kinds | 3 | 0.00% | 0.00% | 0.00% | `k` 100.0% |" in text
    assert "| seen | 3 | 50.00% | 50.00% | 50.00% |  |" in text  # v, u: the two latest ones; v is unknown


def test_empty_histories_have_no_unknown_values(tmp_path):
    lengths = {"train": [1, 2], "valid": [0, 0], "test": [0, 3]}
    folder = prepare_pasts(tmp_path, lengths, "")
    shares = {split: report.out_of_vocabulary(folder, Schema.load(folder), split) for split in lengths}
    assert shares["train"] == shares["valid"] == {"user": 0, "past": 0, "kinds": 0, "seen": 0}
    assert shares["test"] == {"user": 0, "past": 1 / 3, "kinds": 0, "seen": 0}
    assert read_manifest(folder)["splits"]["valid"]["out_of_vocabulary"] == shares["valid"]
    text = (folder / "report.md").read_text()
    assert "| seen | train | 100.00% | 0.0 | 0 | 0 | 0 | 0 | 2 |" in text
    assert "nan" not in text


def test_a_dataset_without_histories_has_no_table_of_them(folder):
    assert "history" not in (folder / "report.md").read_text()
