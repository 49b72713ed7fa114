import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from conftest import ROOT, make_spec, need_shared
from tf4ctr.data import preparation, vocabulary
from tf4ctr.data.preparation import GROUP, LABEL, prepare, read_manifest
from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError


def leftovers(spec):
    return [path.name for path in spec.prepared_dir.parent.glob(".*") if path.suffix != ".lock"]


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
    assert rows[LABEL].dtype == pl.Float32
    assert rows[GROUP].dtype == pl.Int64
    # the same user has the same group in every split, also where the vocabulary does not know the user
    seen = {}
    for split in ("train", "valid", "test"):
        users = pl.read_csv(spec.raw_dir / f"{split}.csv")["user"]
        for user, group in zip(users, pl.read_parquet(prepared / f"{split}.parquet")[GROUP], strict=True):
            assert seen.setdefault(user, group) == group
    assert sorted(seen.values()) == list(range(len(seen)))


def test_manifest_tells_rows_rates_and_sizes(spec, prepared):
    manifest = read_manifest(prepared)
    train = pl.read_csv(spec.raw_dir / "train.csv")
    assert manifest["splits"]["train"] == {"rows": 400, "click_rate": pytest.approx(train["click"].mean())}
    assert manifest["vocabulary_sizes"] == {field.name: field.vocabulary_size for field in Schema.load(prepared).fields}


def test_missing_values_and_unseen_values_are_out_of_vocabulary(raw_dir):
    (raw_dir / "test.csv").write_text("click,user,item,hour\n1,,never seen,3\n")
    spec = make_spec(raw_dir)
    schema = Schema.load(prepare(spec))
    row = pl.read_parquet(spec.prepared_dir / "test.parquet").row(0, named=True)
    last = [offset + field.vocabulary_size - 1 for offset, field in zip(schema.offsets, schema.fields, strict=True)]
    assert [row["user"], row["item"]] == last[:2]


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


def test_prepared_rows_are_used_when_the_raw_files_are_gone(spec, prepared, caplog):
    caplog.set_level(logging.INFO)
    (spec.raw_dir / "train.csv").unlink()
    assert prepare(spec) == prepared
    assert "no raw files" in caplog.text


def test_limit_rows_takes_the_first_of_each_split(raw_dir):
    folder = prepare(make_spec(raw_dir, limit_rows=50))
    assert {split: data["rows"] for split, data in read_manifest(folder)["splits"].items()} == {"train": 50, "valid": 50, "test": 50}


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (12, "1,3,4", r"train\.csv has rows that are cut short or too long:\n  line 12: 3 cells, the header has 4"),
        (12, "1,3,4,5,6", r"line 12: 5 cells, the header has 4"),
        (12, "2,3,4,5", r"train\.csv, line 12: column 'click' is '2', expected 0 or 1 \(1 such rows\)"),
        (12, "yes,3,4,5", r"line 12: column 'click' is 'yes'"),
        (12, ",3,4,5", r"line 12: column 'click' is None"),
        (1, "click,user,itme,hour", r"no column 'item' in its header \(did you mean 'itme'\?\)"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_left(raw_dir, line, text, message):
    path = raw_dir / "train.csv"
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")
    spec = make_spec(raw_dir)
    with pytest.raises(InputError, match=message):
        prepare(spec)
    assert not spec.prepared_dir.exists()
    assert leftovers(spec) == []


def test_an_empty_last_cell_is_a_missing_value_and_no_error(raw_dir):
    with (raw_dir / "train.csv").open("a") as file:
        file.write("1,2,3,\n")
    assert read_manifest(prepare(make_spec(raw_dir)))["splits"]["train"]["rows"] == 401


def test_a_file_cut_in_half_is_refused(raw_dir):
    rows = {"train": 400, "valid": 100, "test": 100}
    path = raw_dir / "train.csv"
    content = path.read_bytes()
    end = content.index(b"\n", len(content) // 2) + 1  # at the end of a line, where no row looks wrong
    path.write_bytes(content[:end])
    with pytest.raises(InputError, match=r"train\.csv has \d+ rows, toy has 400 in its train split"):
        prepare(make_spec(raw_dir, rows=rows))
    path.write_bytes(content[: end - 4])  # and within one
    with pytest.raises(InputError, match=r"cut short|has \d+ rows"):
        prepare(make_spec(raw_dir, rows=rows))
    assert not make_spec(raw_dir).prepared_dir.exists()


def test_a_header_without_rows_is_refused(raw_dir):
    (raw_dir / "valid.csv").write_text("click,user,item,hour\n")
    with pytest.raises(InputError, match=r"valid\.csv has no rows"):
        prepare(make_spec(raw_dir))


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_while_preparing_leaves_no_prepared_dataset(raw_dir, number):
    """SIGINT (Ctrl-C) also clears the half-made folder; SIGKILL can't, the next preparation does."""
    spec = make_spec(raw_dir)
    program = (
        "import sys, time; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "from pathlib import Path; from conftest import make_spec; from tf4ctr.data import preparation as p\n"
        "real = p.vocabulary.save\n"
        "def slow(*a): real(*a); print('writing', flush=True); time.sleep(60)\n"
        "p.vocabulary.save = slow\n"
        "p.prepare(make_spec(Path(sys.argv[3])))\n"
    )
    command = [sys.executable, "-c", program, str(ROOT / "src"), str(ROOT / "tests"), str(raw_dir)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert any("writing" in line for line in process.stdout)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert not spec.prepared_dir.exists()
    assert (leftovers(spec) == []) == (number == signal.SIGINT)
    assert read_manifest(prepare(spec))["splits"]["train"]["rows"] == 400
    assert leftovers(spec) == []


def test_two_processes_take_turns(raw_dir):
    program = (
        "import sys, time, logging; sys.path[:0] = [sys.argv[1], sys.argv[2]]; logging.basicConfig(level=20, stream=sys.stdout)\n"
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
    with pytest.raises(InputError, match="do not fit int32 ids: raise dataset.min_count"):
        prepare(spec)


def test_format_change_prepares_again(spec, prepared, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(preparation, "FORMAT", 99)
    prepare(spec)
    assert "prepared by another version" in caplog.text
    assert json.loads((prepared / "manifest.json").read_text())["format"] == 99


def test_the_training_rows_are_counted_in_one_pass(spec):
    seen = []
    counts = {field.name: vocabulary.Counts(field.name) for field in spec.fields}
    rows = preparation._open(spec, spec.raw_files(spec.raw_dir), "train")
    checks = preparation._count(spec, rows, counts, vocabulary.Counts("user"), seen.append)
    assert sum(seen) == 400 == checks["rows"].item()


FRAPPE_SIZES = [942, 4084, 9, 9, 4, 5, 4, 11, 82, 233]


def test_frappe_has_the_published_sizes_from_both_layouts(tmp_path):
    import yaml

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
