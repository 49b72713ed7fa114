import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal
from scipy import stats

from conftest import CSV, ROOT, leftovers, make_spec, need_shared
from tf4ctr.data import manifest, preparation, vocabulary
from tf4ctr.data.manifest import read_manifest
from tf4ctr.data.passes import Tally, open_rows
from tf4ctr.data.preparation import prepare
from tf4ctr.data.schema import GROUP, LABEL, Schema
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.data.splits import SPLITS
from tf4ctr.errors import InputError


def test_prepared_rows_decode_to_the_raw_ones(spec, prepared):
    schema = Schema.load(prepared)
    train = pl.read_csv(spec.raw_dir / "train.csv", infer_schema=False)
    for field, offset in zip(schema.fields, schema.offsets, strict=True):
        known = vocabulary.load(field.name, prepared / "vocabulary").to_list()
        assert known == sorted(value for value, count in Counter(train[field.name].to_list()).items() if count >= 2)
        assert field.vocabulary_size == len(known) + 2
        for split in ("train", "valid", "test"):
            raw = pl.read_csv(spec.raw_dir / f"{split}.csv", infer_schema=False)[field.name]
            rows = pl.read_parquet(prepared / f"{split}.parquet")[field.name]
            decoded = [known[row - offset - 1] if row - offset <= len(known) else None for row in rows]
            assert decoded == [value if value in known else None for value in raw]


def test_labels_and_groups(spec, prepared):
    raw = pl.read_csv(spec.raw_dir / "test.csv")
    rows = pl.read_parquet(prepared / "test.parquet")
    assert rows[LABEL].to_list() == raw["click"].to_list()
    assert rows[LABEL].dtype == pl.Int32
    assert rows[GROUP].dtype == pl.Int64
    # a user has the same group in every split, in the vocabulary or not
    seen = {}
    for split in ("train", "valid", "test"):
        users = pl.read_csv(spec.raw_dir / f"{split}.csv")["user"]
        for user, group in zip(users, pl.read_parquet(prepared / f"{split}.parquet")[GROUP], strict=True):
            assert seen.setdefault(user, group) == group
    assert sorted(seen.values()) == list(range(len(seen)))


def test_manifest_tells_rows_rates_and_sizes(spec, prepared):
    manifest = read_manifest(prepared)
    train = pl.read_csv(spec.raw_dir / "train.csv")
    found = manifest["splits"]["train"]
    assert (found["rows"], found["click_rate"]) == (400, pytest.approx(train["click"].mean()))
    assert {*found["out_of_vocabulary"]} == {"user", "item", "hour"}
    assert manifest["vocabulary_sizes"] == {field.name: field.vocabulary_size for field in Schema.load(prepared).fields}


def test_missing_values_and_unseen_values_are_out_of_vocabulary(raw_dir):
    (raw_dir / "test.csv").write_text("click,user,item,hour\n1,,never seen,3\n")
    spec = make_spec(raw_dir)
    schema = Schema.load(prepare(spec))
    row = pl.read_parquet(spec.prepared_dir / "test.parquet").row(0, named=True)
    last = [offset + field.vocabulary_size - 1 for offset, field in zip(schema.offsets, schema.fields, strict=True)]
    assert [row["user"], row["item"]] == last[:2]


def test_a_field_that_training_knows_and_another_split_does_not_is_named(raw_dir, caplog):
    rows = pl.read_csv(raw_dir / "valid.csv", infer_schema=False)
    rows.with_columns(item=pl.format("item_{}", "item")).write_csv(raw_dir / "valid.csv")
    prepared = prepare(make_spec(raw_dir))
    (warning,) = [text for text in read_manifest(prepared)["warnings"] if "is known from training" in text]
    assert warning.startswith("no value of 'item' in valid is known from training, so the field says nothing there")
    assert "check that the column is not empty there and has its values in the same form" in warning
    assert warning in caplog.text


def test_reused_until_settings_or_raw_files_change(spec, caplog):
    caplog.set_level(logging.INFO)
    prepare(spec)
    first = (spec.prepared_dir / "manifest.json").stat().st_ino
    prepare(spec)
    assert (spec.prepared_dir / "manifest.json").stat().st_ino == first

    other = make_spec(spec.raw_dir, min_count=5)
    prepare(other)
    assert "min_count: 2 -> 5" in caplog.text
    assert read_manifest(spec.prepared_dir)["settings"]["min_count"] == 5

    second = (spec.prepared_dir / "manifest.json").stat().st_ino
    os.utime(spec.raw_dir / "valid.csv", (1, 1))
    prepare(other)
    assert "raw files of toy have changed" in caplog.text
    assert (spec.prepared_dir / "manifest.json").stat().st_ino != second


def test_only_the_options_of_a_field_that_changed_are_told(raw_dir, caplog):
    caplog.set_level("INFO")
    prepare(make_spec(raw_dir))
    fields = ({"name": "user", "min_count": 3}, "item")
    prepare(make_spec(raw_dir, fields=fields, min_count=2))
    assert "prepared with other settings (fields.user.min_count: None -> 3; fields.hour: removed)" in caplog.text


def test_prepared_rows_are_used_when_the_raw_files_are_gone(spec, prepared, caplog):
    caplog.set_level(logging.INFO)
    (spec.raw_dir / "train.csv").unlink()
    assert prepare(spec) == prepared
    assert "no raw files" in caplog.text


@pytest.mark.parametrize("change", ["folder", "file"])
def test_a_misspelt_folder_or_file_does_not_pass_for_files_that_are_gone(spec, prepared, change):
    changes = {
        "folder": {"raw_dir": spec.raw_dir.with_name("tuesdya")},
        "file": {"layouts": ({**spec.layouts[0], "train": "trains.csv"},)},
    }
    with pytest.raises(InputError, match=rf"(?s)missing.*prepared from {spec.raw_dir}.*dataset.raw_dir={spec.raw_dir}"):
        prepare(replace(spec, **changes[change]))


def digest(spec, folder, **changes):
    return Schema.load(prepare(replace(spec, prepared_dir=folder, **changes))).digest


def test_the_digest_is_that_of_settings_and_values_and_not_of_the_folder(spec, tmp_path):
    first = digest(spec, tmp_path / "a")
    shutil.copytree(spec.raw_dir, tmp_path / "moved")
    assert digest(spec, tmp_path / "b", raw_dir=tmp_path / "moved") == first
    assert digest(spec, tmp_path / "c", min_count=3) != first
    rows = (spec.raw_dir / "train.csv").read_text()
    (spec.raw_dir / "train.csv").write_text(rows.replace(",1,", ",1x,"))
    assert digest(spec, tmp_path / "d") != first


def test_two_conditions_of_the_label_are_two_datasets_of_one_schema(raw_dir, tmp_path):
    two, three = (
        Schema.load(
            prepare(
                make_spec(raw_dir, prepared_dir=tmp_path / str(at), fields=["user"], label="hour", positive=f">= {at}")
            )
        )
        for at in (2, 3)
    )
    assert two == three
    assert not two.has_rows_of(three)
    assert two.has_rows_of(replace(three, digest=""))  # of an older version


def test_limit_rows_takes_the_first_of_each_split(raw_dir):
    folder = prepare(make_spec(raw_dir, limit_rows=50))
    assert {split: data["rows"] for split, data in read_manifest(folder)["splits"].items()} == {
        "train": 50,
        "valid": 50,
        "test": 50,
    }


def test_an_empty_last_cell_is_a_missing_value_and_no_error(raw_dir):
    with (raw_dir / "train.csv").open("a") as file:
        file.write("1,2,3,\n")
    assert read_manifest(prepare(make_spec(raw_dir)))["splits"]["train"]["rows"] == 401


def test_a_folder_of_something_else_is_not_overwritten(spec):
    spec.prepared_dir.mkdir(parents=True)
    (spec.prepared_dir / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="is not a prepared dataset"):
        prepare(spec)
    assert (spec.prepared_dir / "thesis.tex").read_text() == "years of work"


def test_a_failure_keeps_the_old_prepared_dataset(spec, prepared):
    before = (prepared / "manifest.json").read_text()
    (spec.raw_dir / "train.csv").write_text("click,user,item,hour\n7,1,2,3\n")
    with pytest.raises(InputError, match="expected 0 or 1"):
        prepare(spec)
    assert (prepared / "manifest.json").read_text() == before
    assert leftovers(spec) == []


def test_what_a_killed_process_left_is_cleared(spec):
    (spec.prepared_dir.parent / ".toy.partial-123").mkdir(parents=True)
    prepare(spec)
    assert leftovers(spec) == []


SLOW_PREPARATION = (
    "import sys, time; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
    "from pathlib import Path; from conftest import make_spec; from tf4ctr.data import preparation as p\n"
    "module, _, name = sys.argv[4].rpartition('.'); where = getattr(p, module) if module else p\n"
    "real = getattr(where, name)\n"
    "def slow(*a): print('reached', flush=True); time.sleep(60); return real(*a)\n"
    "setattr(where, name, slow)\n"
    "p.prepare(make_spec(Path(sys.argv[3]), min_count=3))\n"
)


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "vocabulary.save"),
        (signal.SIGKILL, "_count"),
        (signal.SIGKILL, "faults.refuse_counts"),
        (signal.SIGKILL, "vocabulary.save"),
        (signal.SIGKILL, "report.write"),
    ],
)
def test_stopped_while_preparing_keeps_the_old_prepared_dataset(spec, prepared, number, moment):
    """SIGINT (Ctrl-C) also removes the partial folder; after SIGKILL the next one does."""
    before = (prepared / "manifest.json").read_text()
    command = [
        sys.executable,
        "-c",
        SLOW_PREPARATION,
        str(ROOT / "src"),
        str(ROOT / "tests"),
        str(spec.raw_dir),
        moment,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert any("reached" in line for line in process.stdout)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert (prepared / "manifest.json").read_text() == before
    assert (leftovers(spec) == []) == (number == signal.SIGINT)
    assert read_manifest(prepare(make_spec(spec.raw_dir, min_count=3)))["settings"]["min_count"] == 3
    assert leftovers(spec) == []


def test_two_processes_take_turns(raw_dir):
    program = (
        "import sys, time, logging; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "logging.basicConfig(level=20, stream=sys.stdout)\n"
        "from pathlib import Path; from conftest import make_spec; from tf4ctr.data import preparation as p\n"
        "p.prepare(make_spec(Path(sys.argv[3])))\n"
    )
    command = [sys.executable, "-c", program, str(ROOT / "src"), str(ROOT / "tests"), str(raw_dir)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted("using the prepared" in output for output in outputs) == [False, True]


def test_ids_beyond_int32_are_refused(spec, monkeypatch):
    monkeypatch.setattr(vocabulary, "size", lambda values: 2**30)
    with pytest.raises(InputError, match="too many for int32 ids: raise dataset.min_count"):
        prepare(spec)


def test_format_change_prepares_again(spec, prepared, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(manifest, "FORMAT", 99)
    prepare(spec)
    assert "prepared by another version" in caplog.text
    assert json.loads((prepared / "manifest.json").read_text())["format"] == 99


def test_the_training_rows_are_counted_in_one_pass(spec):
    ticks, tally = [], Tally(spec, "train")
    tally.count(open_rows(spec, spec.raw_files(spec.raw_dir), "train"), ticks.append)
    assert sum(ticks) == 400 == tally.checks["rows"].item()


def test_tallies_add_up(spec):
    """Two workers that have counted the same rows."""
    rows = open_rows(spec, spec.raw_files(spec.raw_dir), "train")
    once, twice = Tally(spec, "train"), Tally(spec, "train")
    once.count(rows, lambda rows: None)
    for _ in range(2):
        other = Tally(spec, "train")
        other.count(rows, lambda rows: None)
        twice.add(other)
    doubled = [pl.col(name) * 2 for name in once.checks.columns if name != "__split"]
    assert twice.checks.equals(once.checks.with_columns(doubled))
    for name, counts in once.fields.items():
        assert twice.fields[name].seen(1).equals(counts.seen(1).with_columns(pl.col("count") * 2))
    assert twice.groups.seen(1)["count"].sum() == 800


NO_YES = {0: "false", 1: "true"}


@pytest.mark.parametrize(
    "texts",
    [{0: "0.0", 1: "1.0"}, NO_YES, {0: "False", 1: "True"}, {0: "FALSE", 1: "TRUE"}],
    ids=["floats", "lower case", "title case", "upper case"],
)
def test_labels_in_csv_may_be_floats_or_truth_values(raw_dir, prepared, texts):
    plain = {split: pl.read_parquet(prepared / f"{split}.parquet") for split in SPLITS}
    for split in SPLITS:
        rows = pl.read_csv(raw_dir / f"{split}.csv")
        rows.with_columns(pl.col("click").replace_strict(texts)).write_csv(raw_dir / f"{split}.csv")
    folder = prepare(make_spec(raw_dir))
    assert all(pl.read_parquet(folder / f"{split}.parquet").equals(plain[split]) for split in SPLITS)


PARQUET = {"reader": "parquet", "train": "train.parquet", "valid": "valid.parquet", "test": "test.parquet"}


def to_parquet(raw_dir, *changes):
    """The raw csv files as parquet, with changed columns."""
    for split in SPLITS:
        pl.read_csv(raw_dir / f"{split}.csv").with_columns(*changes).write_parquet(raw_dir / f"{split}.parquet")
    return make_spec(raw_dir, layouts=[PARQUET])


@pytest.mark.parametrize("kind", [pl.Float64, pl.Boolean, pl.Float32, pl.Int64])
def test_labels_in_parquet_may_have_any_type(raw_dir, prepared, kind):
    plain = {split: pl.read_parquet(prepared / f"{split}.parquet") for split in SPLITS}
    folder = prepare(to_parquet(raw_dir, pl.col("click").cast(kind)))
    assert all(pl.read_parquet(folder / f"{split}.parquet").equals(plain[split]) for split in SPLITS)


def test_whole_numbers_of_a_float_column_are_the_integers_that_they_are(raw_dir, prepared):
    plain = {split: pl.read_parquet(prepared / f"{split}.parquet") for split in SPLITS}
    folder = prepare(to_parquet(raw_dir, pl.col("user").cast(pl.Float64), pl.col("item").cast(pl.Float32)))
    assert all(pl.read_parquet(folder / f"{split}.parquet").equals(plain[split]) for split in SPLITS)


def test_lists_of_parquet_are_a_list_field_without_a_separator(tmp_path):
    """Also null, empty lists and null elements. The same texts in csv give the same ids."""
    tags = [["a", "b"], None, [], [None, "b"], ["c", None, "a", "b"], ["zzz"]] * 20
    rows = pl.DataFrame({"click": [0, 1] * 60, "tags": tags, "sizes": [[1.0, 2.0, None]] * 120})
    texts = rows.with_columns(
        pl.col("tags").list.eval(pl.element().fill_null("")).list.join("|"), pl.lit("1|2|").alias("sizes")
    )
    (tmp_path / "raw").mkdir()
    for split in SPLITS:
        rows.write_parquet(tmp_path / "raw" / f"{split}.parquet")
        texts.write_csv(tmp_path / "raw" / f"{split}.csv")
    lists = [{"name": name, "width": 3} for name in ("tags", "sizes")]
    folders = []
    for layout, fields in ((PARQUET, lists), (CSV, [{**field, "separator": "|"} for field in lists])):
        options = {"fields": fields, "group": None, "layouts": [layout], "prepared_dir": tmp_path / layout["reader"]}
        folders.append(prepare(make_spec(tmp_path / "raw", **options)))
    ids = [pl.read_parquet(folder / "train.parquet") for folder in folders]
    assert ids[0].equals(ids[1])
    offset, unknown = 0, 5  # tags: padding, a, b, c, zzz, unknown
    assert ids[0].select("tags.0", "tags.1", "tags.2").rows()[:5] == [
        (1, 2, offset),
        (unknown, offset, offset),
        (unknown, offset, offset),
        (2, offset, offset),
        (3, 1, 2),
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["tags"], "field 'tags': its column 'tags' is a list: set the field's width"),
        ([{"name": "tags", "width": 2, "transform": "country_code"}], "is a list, and a transform takes one text"),
        ([{"name": "name", "width": 2}], "field 'name': its column 'name' is text: set the field's separator"),
    ],
)
def test_a_list_where_a_field_takes_one_value_is_refused_and_the_reverse(tmp_path, fields, message):
    (tmp_path / "raw").mkdir()
    for split in SPLITS:
        rows = pl.DataFrame({"click": [0, 1], "tags": [["a"], ["b"]], "name": ["x", "y"]})
        rows.write_parquet(tmp_path / "raw" / f"{split}.parquet")
    with pytest.raises(InputError, match=message):
        prepare(make_spec(tmp_path / "raw", fields=fields, group=None, layouts=[PARQUET]))


def test_another_quote_reads_the_files_again(raw_dir):
    prepare(make_spec(raw_dir))
    with (raw_dir / "train.csv").open("a") as file:
        file.write('1,2,3,4"\n')
    with pytest.raises(InputError, match=r"(?s)line 402: a quote without its pair.*quote: null"):
        prepare(make_spec(raw_dir))
    assert (
        read_manifest(prepare(make_spec(raw_dir, layouts=[{**CSV, "quote": None}])))["splits"]["train"]["rows"] == 401
    )


def test_files_without_splits_are_split_eight_one_one(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    rows = pl.DataFrame({"click": [i % 2 for i in range(5000)], "user": [f"u{i}" for i in range(5000)]})
    rows[:2000].write_csv(raw / "part-0.csv")
    rows[2000:].write_csv(raw / "part-1.csv")
    layouts = [{"reader": "csv", "all": "part-*.csv"}]
    spec = make_spec(raw, fields=["user"], layouts=layouts, min_count=1)
    folder = prepare(spec)
    splits = read_manifest(folder)["splits"]
    assert sum(split["rows"] for split in splits.values()) == 5000
    for split, share in {"train": 0.8, "valid": 0.1, "test": 0.1}.items():
        assert stats.binomtest(splits[split]["rows"], 5000, share).pvalue > 1e-3
    known = vocabulary.load("user", folder / "vocabulary").to_list()
    expected = [f"u{i}" for i in range(5000) if expected_split(i, 0) == 0]
    assert known == sorted(expected)
    ids = pl.read_parquet(folder / "train.parquet")["user"]
    assert [known[row - 1] for row in ids] == expected  # in the files' order
    other = prepare(make_spec(raw, fields=["user"], layouts=layouts, min_count=1, split_seed=1))
    assert read_manifest(other)["splits"] != splits


def expected_split(row, seed):
    """SplitMix64's finaliser in Python's whole numbers."""
    z = row + int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) & (2**64 - 1)
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
    z = (z ^ z >> 27) * 0x94D049BB133111EB & (2**64 - 1)
    return max(0, (z ^ z >> 31) % 10 - 7)


def test_list_fields_take_several_columns(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for split in ("train", "valid", "test"):
        (raw / f"{split}.csv").write_text("click,tags\n1,a|b\n0,b\n1,\n0,c|a|b|d\n")
    folder = prepare(make_spec(raw, fields=[{"name": "tags", "separator": "|", "width": 3}], group=None, layouts=[CSV]))
    schema = Schema.load(folder)
    assert schema.columns == ["tags.0", "tags.1", "tags.2"]
    assert vocabulary.load("tags", folder / "vocabulary").to_list() == ["a", "b"]  # c and d came up once
    assert pl.read_parquet(folder / "train.parquet").select(schema.columns).rows() == [
        (1, 2, 0),
        (2, 0, 0),
        (3, 0, 0),
        (3, 1, 2),
    ]


def test_a_full_disk_is_told_before_anything_is_read(spec, monkeypatch):
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(
        InputError, match=r"toy may need .* MB in .*, 0\.0 MB are free: make room, or name another disk"
    ):
        prepare(spec)
    assert leftovers(spec) == []


def test_movielens_1m_has_the_published_sizes_and_its_ratings_all_rows(tmp_path):
    folder = need_shared("movielens_1m")
    config = yaml.safe_load((ROOT / "conf" / "dataset" / "movielens_1m.yaml").read_text().replace("${root:}", "unused"))
    config |= {"raw_dir": str(folder), "prepared_dir": str(tmp_path / "csv")}
    manifest = read_manifest(prepare(DatasetSpec.from_config(config)))
    assert list(manifest["vocabulary_sizes"].values()) == [6042, 4, 9, 23, 3548]
    assert {split: found["rows"] for split, found in manifest["splits"].items()} == config["rows"]
    config |= {"layouts": config["layouts"][1:], "prepared_dir": str(tmp_path / "dat")}
    from_ratings = read_manifest(prepare(DatasetSpec.from_config(config)))
    assert sum(found["rows"] for found in from_ratings["splits"].values()) == 1_000_209
    assert round(sum(found["rows"] * found["click_rate"] for found in from_ratings["splits"].values())) == 575_281
    assert list(from_ratings["vocabulary_sizes"].values())[:4] == [6042, 4, 9, 23]  # films differ with the split


FRAPPE_SIZES = [942, 4084, 9, 9, 4, 5, 4, 11, 82, 233]


def test_frappe_has_the_published_sizes_from_both_layouts(tmp_path):
    folder = need_shared("frappe")
    config = yaml.safe_load((ROOT / "conf" / "dataset" / "frappe.yaml").read_text().replace("${root:}", "unused"))
    folders = []
    for layout in config["layouts"]:
        raw = tmp_path / layout["reader"]
        raw.mkdir()
        for split in ("train", "valid", "test"):
            (raw / layout[split]).symlink_to(folder / layout[split])
        options = {
            "name": "frappe",
            "fields": config["fields"],
            "label": "label",
            "rows": config["rows"],
            "layouts": config["layouts"],
        }
        folders.append(prepare(make_spec(raw, prepared_dir=tmp_path / "prepared" / layout["reader"], **options)))
    first, second = folders
    assert [field.vocabulary_size for field in Schema.load(first).fields] == FRAPPE_SIZES
    assert {split: data["rows"] for split, data in read_manifest(first)["splits"].items()} == config["rows"]
    for split in ("train", "valid", "test"):
        assert_frame_equal(pl.read_parquet(first / f"{split}.parquet"), pl.read_parquet(second / f"{split}.parquet"))


def test_waiting_is_bounded_by_the_other_process(spec):
    """The lock is released even when preparation fails."""
    (spec.raw_dir / "train.csv").write_text("click,user,item,hour\n7,1,2,3\n")
    for _ in range(2):
        started = time.perf_counter()
        with pytest.raises(InputError):
            prepare(spec)
        assert time.perf_counter() - started < 10


def test_rows_without_a_group_and_rows_of_one_label_are_reported(raw_dir, caplog):
    for split in ("train", "valid", "test"):
        rows = pl.read_csv(raw_dir / f"{split}.csv")
        user = pl.when(pl.int_range(pl.len()) < 10).then(None).otherwise("user")
        click = pl.lit(0) if split == "train" else pl.col("click")
        rows.with_columns(user.alias("user"), click.alias("click")).write_csv(raw_dir / f"{split}.csv")
    prepare(make_spec(raw_dir))
    assert re.search(r"30 of [\d,]+ rows have no 'user': gAUC takes them as the rows of one group", caplog.text)
    assert "all training rows have the label 0, so there is nothing to learn" in caplog.text


def test_a_field_of_which_no_value_is_known_is_reported(raw_dir, caplog):
    prepare(make_spec(raw_dir, fields=({"name": "user", "min_count": 10_000}, "item")))
    assert caplog.text.count("is frequent enough to be known") == 1
    assert "no value of 'user' is frequent enough to be known" in caplog.text
