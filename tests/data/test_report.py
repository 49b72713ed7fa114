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
