"""Drafts of real and made-up files: kinds of known columns, and preparation without a change."""

import re

import numpy as np
import polars as pl
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from conftest import ROOT, need_shared
from tf4ctr.data.describing.describe import Hints, describe
from tf4ctr.data.manifest import read_manifest
from tf4ctr.data.preparation import prepare
from tf4ctr.data.schema import Schema
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.errors import InputError
from tf4ctr.experiments.resolvers import register_resolvers

HEAD = 2000  # rows of a split of the larger datasets


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch):
    """The pictures of the report take most of the time of a preparation."""
    monkeypatch.setattr("tf4ctr.data.report._draw", lambda *args: None)


def draft(tmp_path, *inputs, **hints):
    """Draft conf/dataset/draft.yaml below `tmp_path`; returns its text."""
    text = describe([str(path) for path in inputs], "draft", ROOT, Hints(**hints)).text
    folder = tmp_path / "conf" / "dataset"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "draft.yaml").write_text(text)
    return text


def composed(tmp_path, *overrides, config="prepare"):
    """The draft as Hydra composes it."""
    register_resolvers()
    options = [
        f"hydra.searchpath=[file://{tmp_path}/conf]",
        "dataset=draft",
        f"dataset.prepared_dir={tmp_path}/prepared",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(config, [*options, *overrides])


def prepared(tmp_path, *overrides):
    """Prepare the draft; returns its spec, schema and manifest."""
    dataset = OmegaConf.to_container(composed(tmp_path, *overrides).dataset, resolve=True)
    spec = DatasetSpec.from_config(dataset)
    folder = prepare(spec)
    return spec, Schema.load(folder), read_manifest(folder)


def numbers(schema):
    return {field.name for field in schema.number_fields}


def head_of(name, tmp_path):
    """The first rows of each split of a dataset with csv files."""
    (tmp_path / "raw").mkdir()
    for split in ("train", "valid", "test"):
        lines = (need_shared(name) / f"{split}.csv").open()
        (tmp_path / "raw" / f"{split}.csv").write_text("".join(next(lines) for _ in range(HEAD + 1)))
        lines.close()
    return tmp_path / "raw"


def peer(name):
    return need_shared("peers") / name


def test_taobao_ad(tmp_path):
    text = draft(tmp_path, peer("taobao_ad"))
    spec, schema, manifest = prepared(tmp_path)
    assert spec.label == "clk"
    assert spec.group == "userid"
    assert numbers(schema) == {"price"}
    assert schema["click_sequence"].width > 1
    assert next(field for field in spec.fields if field.name == "price").transform == "log1p"
    assert {"adgroup_id", "pid", "final_gender_code"} <= {field.name for field in schema.id_fields}
    assert {split: facts["rows"] for split, facts in manifest["splits"].items()} == {
        "train": 100,
        "valid": 100,
        "test": 100,
    }
    assert "# left out: time_stamp: moments (dates)" in text
    assert "# left out: new_user_class_level: it has no values" in text
    assert "split: null  # the files are split already" in text


def test_criteo(tmp_path):
    draft(tmp_path, peer("criteo"))
    spec, schema, _ = prepared(tmp_path)
    assert spec.label == "label"
    assert numbers(schema) == {f"I{number}" for number in range(1, 14)}
    assert [field.name for field in schema.id_fields] == [f"C{number}" for number in range(1, 27)]


def test_movielens(tmp_path):
    text = draft(tmp_path, peer("movielens"))
    spec, schema, manifest = prepared(tmp_path)
    assert (spec.label, spec.positive) == ("rating", ">= 4")
    assert (spec.split.by, spec.split.valid, spec.split.test) == ("timestamp", 0.1, 0.1)
    assert [manifest["splits"][split]["rows"] for split in ("train", "valid", "test")] == [160, 20, 20]
    assert (schema["genres"].width, numbers(schema)) == (4, set())
    assert {"user_id", "movie_id", "zip", "age"} <= {field.name for field in schema.fields}
    assert "timestamp" not in {field.name for field in schema.fields}
    assert "group: null  # no gAUC: user_id has fewer than 2 rows per value" in text


def test_ali_ccp(tmp_path):
    text = draft(tmp_path, peer("ali_ccp"))
    spec, schema, _ = prepared(tmp_path)
    assert spec.label == "click"
    assert [field.name for field in schema.id_fields] == ["205", "206", "207", "210", "216", "508", "509", "702", "853"]
    assert numbers(schema) == {"D508", "D509", "D702", "D853"}
    assert "# left out: purchase: another outcome" in text
    assert "# left out: 101: it is constant" in text


def test_aliexpress(tmp_path):
    text = draft(tmp_path, peer("aliexpress"))
    spec, schema, _ = prepared(tmp_path)
    assert spec.label == "click"
    assert {f"categorical_{number}" for number in range(2, 17)} <= {field.name for field in schema.id_fields}
    assert numbers(schema) == {f"numerical_{number}" for number in range(1, 64) if number not in (58, 59, 60)}
    assert "# left out: conversion: another outcome" in text
    assert "# Note: there is no valid file: the test file is used for both" in text


def test_census(tmp_path):
    draft(tmp_path, peer("census"))
    spec, schema, _ = prepared(tmp_path)
    assert spec.label == "income"
    field = next(field for field in spec.fields if field.column == "class of worker")
    assert (field.name, field.kind) == ("class_of_worker", "categorical")
    fractions = {"age", "wage_per_hour", "capital_gains", "capital_losses", "divdends_from_stocks"}
    assert numbers(schema) == {*fractions, "num_persons_worked_for_employer", "weeks_worked_in_year"}


def test_amazon_has_no_label(tmp_path):
    with pytest.raises(
        InputError, match=r"amazon: no column is the label.*\n.*user_id, item_id, time, cate_id.*label 0|rows"
    ):
        draft(tmp_path, peer("amazon"))


def test_frappe(tmp_path):
    draft(tmp_path, head_of("frappe", tmp_path))
    spec, schema, _ = prepared(tmp_path, "dataset.limit_rows=1000")
    assert (spec.label, spec.group) == ("label", "user")
    names = ["user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city"]
    assert [field.name for field in schema.id_fields] == names
    assert not schema.number_fields


def test_movielens_1m(tmp_path):
    draft(tmp_path, head_of("movielens_1m", tmp_path) / "*.csv")
    spec, schema, _ = prepared(tmp_path)
    assert (spec.label, spec.raw_dir) == ("label", tmp_path / "raw")
    assert [field.name for field in schema.id_fields] == ["UserID", "Gender", "Age", "Occupation", "MovieID"]


def avazu_rows(rows):
    """Rows as those of Avazu, made up."""
    random = np.random.default_rng(0)
    hexadecimal = {
        name: [f"{value * 2654435761 % 2**32:08x}" for value in (count * random.random(rows) ** 3).astype(int).tolist()]
        for name, count in {"site_id": 900, "app_id": 800, "device_id": 30_000, "device_ip": 2**31}.items()
    }
    numbered = {"C1": (7, 1001), "banner_pos": (7, 0), "device_type": (5, 0), "C14": (2626, 20_000), "C15": (8, 300)}
    numbered |= {"C17": (435, 1800), "C20": (172, 100_000), "C21": (60, 15)}
    return pl.DataFrame(
        {
            "id": random.integers(10**18, 2 * 10**18, rows),
            "click": random.random(rows) < 0.2,
            "hour": 14_102_100 + random.integers(0, 10, rows) * 100 + random.integers(0, 24, rows),
            **hexadecimal,
            **{
                name: first + (count * random.random(rows) ** 2).astype(int)
                for name, (count, first) in numbered.items()
            },
        }
    ).with_columns(pl.col("click").cast(pl.Int8))


def test_avazu(tmp_path):
    (tmp_path / "raw").mkdir()
    rows = avazu_rows(4000)
    for number in range(2):
        rows[number * 2000 :][:2000].write_csv(tmp_path / "raw" / f"train-{number}.csv")
    text = draft(tmp_path, tmp_path / "raw")
    spec, schema, manifest = prepared(tmp_path)
    assert "# left out: id: a key" in text
    assert [field.name for field in schema.id_fields][:3] == ["hour", "weekday", "weekend"]
    assert not schema.number_fields
    assert {"device_ip", "C14", "C21"} <= {field.name for field in schema.fields}
    assert spec.split.by == "hour"
    assert spec.layouts == ({"reader": "csv", "all": "train-*.csv"},)
    assert manifest["splits"]["test"]["rows"] == pytest.approx(400, abs=100)


def test_a_folder_of_the_project_is_written_as_one(raw_dir, tmp_path):
    text = describe([str(raw_dir)], "toy", tmp_path).text
    assert "raw_dir: ${root:}/raw  # the folder of the files" in text
    assert "prepared_dir: ${root:}/data/prepared/toy" in text


def shop(rows=600):
    """A log with odd names, a list, a vector, gaps, a moment and a user."""
    random = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "Is Clicked": random.random(rows) < 0.3,
            "User Id": random.integers(0, 40, rows),
            "${item}": random.choice(["a: b", "#c", "'d'"], rows),
            "null": random.choice(["yes", "no", "1e5"], rows),
            "price": np.where(random.random(rows) < 0.1, np.nan, random.lognormal(3, 1, rows)),
            "tags": [[f"t{tag}" for tag in random.integers(0, 9, number)] for number in random.integers(0, 5, rows)],
            "vector": [random.normal(size=4).tolist() for _ in range(rows)],
            "at": pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 2), "2m", eager=True)[:rows],
            "where": [{"city": "Rome"}] * rows,
        }
    )


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "ndjson"])
def test_files_with_types(tmp_path, suffix):
    writers = {"parquet": "write_parquet", "arrow": "write_ipc", "ndjson": "write_ndjson"}
    getattr(shop(), writers[suffix])(tmp_path / f"log.{suffix}")
    text = draft(tmp_path, tmp_path / f"log.{suffix}")
    spec, schema, manifest = prepared(tmp_path)
    names = ["User_Id", "item", "null", "price", "tags"]
    assert [field.name for field in schema.fields][:5] == names
    assert [field.raw for field in spec.fields][:3] == ["User Id", "${item}", "null"]
    assert (spec.label, spec.group, spec.split.by) == ("Is Clicked", "User Id", "at")
    assert manifest["splits"]["train"]["missing"]["price"] == pytest.approx(0.1, abs=0.05)
    assert schema["tags"].width == 4
    assert (schema["vector"].kind, schema["vector"].width) == ("vector", 4)
    if suffix == "ndjson":  # an object's key is a column
        assert "# left out: where.city: it is constant" in text
    else:
        assert "invalid: missing" in text  # NaN
        assert "# left out: where: its type Struct" in text


def test_every_line_of_the_yaml_has_a_comment(tmp_path):
    shop().write_parquet(tmp_path / "log.parquet")
    text = draft(tmp_path, tmp_path / "log.parquet")
    headings = ("name: draft", "fields:", "layouts:", "training:", "")
    assert [line for line in text.splitlines() if "#" not in line and line not in headings] == []
    assert re.search(
        r"- \{name: User_Id, column: \"User Id\"\}  # id: 'id' in its name; 40 values, none missing, e\.g\. ", text
    )
    assert re.search(r'label: "Is Clicked"  # its values are false and true; \d\d\.\d\d% of 600 rows are clicks', text)
    assert re.search(r"split: .* from 2024-01-01 1\d:\d\d:\d\d on, and for testing, from 2024-01-01 1\d:", text)


def test_the_summary_says_what_was_decided_and_what_is_doubtful(tmp_path):
    shop().drop("where").with_columns(tags=pl.lit(["a", "b"])).write_parquet(tmp_path / "log.parquet")
    label, split, group = describe([str(tmp_path / "log.parquet")], "shop", ROOT).summary
    assert re.fullmatch(
        r"label: Is Clicked \(its values are false and true; \d\d\.\d\d% of 600 rows are clicks\)", label
    )
    assert split.startswith("split: by at (the latest rows are kept for validation, from 2024-01-01 1")
    assert group == "gAUC group: User Id (gAUC compares rows of one user, who has 15.0 rows)"

    rows = "".join(f"{number % 2},{number % 28 + 1:02}/01/2026 10:00,{number % 9}\n" for number in range(300))
    (tmp_path / "log.csv").write_text("click,Timestamp,item\n" + rows)
    draft = describe([str(tmp_path / "log.csv")], "shop", ROOT)
    warning = "Timestamp looks like a time, but '01/01/2026 10:00' is not an ISO date"
    assert draft.summary[1:3] == [
        "split: 8:1:1 by a hash of the row number, as no column orders the rows in time",
        "gAUC group: no gAUC: no column has the name of a user's id",
    ]
    assert draft.summary[3].startswith(f"warning: {warning}")
    assert f"# Warning: {warning}" in draft.text


def test_the_summary_has_the_notes_about_the_files(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("click,item\n" + "0,a\n1,b\n1,a\n0,b\n" * 30)
    summary = describe([str(tmp_path)], "shop", ROOT).summary
    assert summary[1] == "split: the files are split already"
    assert summary[-1].startswith("note: there is no valid file")


def test_rows_without_a_label_are_named(tmp_path):
    rows = ["1,a", "0,b", "0,a", "1,b"] * 20
    rows[5] = rows[50] = ",a"
    (tmp_path / "log.csv").write_text("\n".join(["Clicked,item", *rows]))
    for hints in ({}, {"label": "Clicked"}):
        with pytest.raises(
            InputError, match=r"2 of 80 rows have no label .*the first is line 7 of log.csv\): remove them"
        ):
            draft(tmp_path, tmp_path / "log.csv", **hints)


def test_the_draft_has_the_options_of_the_other_datasets(tmp_path):
    shop().write_parquet(tmp_path / "log.parquet")
    text = draft(tmp_path, tmp_path / "log.parquet")
    config = composed(tmp_path, config="train")
    frappe = OmegaConf.load(ROOT / "conf" / "dataset" / "frappe.yaml")
    optional = {"rows", "download", "tf"}
    assert {*frappe, *frappe.training} - optional <= {*config.dataset, *config.dataset.training}
    assert config.embedding.l2 == config.dataset.training.embedding_l2 == 0.05
    assert config.stream.batch_size == 32
    assert "prepared_dir: ${root:}/data/prepared/draft" in text


def test_hints_come_first(tmp_path):
    rows = shop().select(
        pl.int_range(600).alias("row") % 7,
        pl.col("User Id").alias("who"),
        pl.int_range(600).alias("tick"),
        pl.col("null").alias("word"),
    )
    rows.write_csv(tmp_path / "log.tsv", separator="\t", include_header=False)
    hints = {
        "header": ["grade", "who", "tick", "word"],
        "label": "grade",
        "positive": ">= 5",
        "group": "who",
        "time": "tick",
    }
    draft(tmp_path, tmp_path / "log.tsv", **hints)
    spec, schema, manifest = prepared(tmp_path)
    assert (spec.label, spec.positive, spec.group, spec.split.by) == ("grade", ">= 5", "who", "tick")
    assert [field.name for field in schema.fields] == ["who", "word"]
    assert manifest["splits"]["test"]["rows"] == 60


def test_a_file_without_header_line_asks_for_one(tmp_path):
    (tmp_path / "log.csv").write_text("0,5\n1,6\n")
    for hints in ({}, {"label": "click"}):
        with pytest.raises(
            InputError, match=r"(?s)(no column is the label|unknown column).*header=\[click,user,\.\.\.\]"
        ):
            draft(tmp_path, tmp_path / "log.csv", **hints)


def test_quotes_may_be_text(tmp_path):
    (tmp_path / "log.csv").write_text("click,title,item\n" + '0,6" pipe,a\n1,7" pipe,b\n' * 30)
    draft(tmp_path, tmp_path / "log.csv", quote=None)
    spec, schema, _ = prepared(tmp_path)
    assert spec.layouts[0]["quote"] is None
    assert schema["item"].vocabulary_size == 4


def test_texts_that_mean_a_missing_value(tmp_path):
    (tmp_path / "log.csv").write_text("click,item,price\n" + "0,a,\\N\n1,b,1.5\n0,c,2.5\n" * 30)
    text = draft(tmp_path, tmp_path / "log.csv")
    spec, schema, manifest = prepared(tmp_path)
    assert spec.null_values == ("\\N",)
    assert 'null_values: ["\\\\N"]  # missing values in every column; found in price' in text
    assert numbers(schema) == {"price"}
    assert manifest["splits"]["train"]["missing"]["price"] == pytest.approx(1 / 3, abs=0.1)


def test_lists_of_values_with_spaces(tmp_path):
    tags = ["drama, science fiction", "drama", "science fiction, art house", "art house, drama"]
    rows = "".join(f'{number % 2},"{tags[number * 7 % 4]}"\n' for number in range(120))
    (tmp_path / "log.csv").write_text("click,tags\n" + rows)
    draft(tmp_path, tmp_path / "log.csv", label="click")
    _, schema, _ = prepared(tmp_path)
    assert (schema["tags"].width, schema["tags"].vocabulary_size) == (2, 5)  # two for padding and the unknown


@pytest.mark.parametrize(
    ("name", "hints", "message"),
    [
        ("my shop", {}, "name=my shop: expected letters"),
        ("shop", {"header": "click,user"}, "header=click,user: expected a list of names"),
        ("shop", {"sample_rows": 0}, "sample_rows=0: expected a whole number from 1 on"),
        ("shop", {"label": "clickk"}, "label=clickk: unknown column, did you mean 'click'?"),
        ("shop", {"group": "usr"}, "group=usr: unknown column, did you mean 'user' or 'hour'?"),
        ("shop", {"time": "user"}, "time=user: the files are split already"),
    ],
)
def test_mistakes_are_refused(raw_dir, tmp_path, name, hints, message):
    with pytest.raises(InputError, match=re.escape(message)):
        describe([str(raw_dir)], name, tmp_path, Hints(**hints))


def test_files_without_rows_or_fields_are_refused(tmp_path):
    (tmp_path / "log.csv").write_text("click,user\n")
    with pytest.raises(InputError, match="the files have no rows"):
        draft(tmp_path, tmp_path / "log.csv")
    (tmp_path / "log.csv").write_text("click,user\n" + "0,7\n1,7\n" * 20)
    with pytest.raises(InputError, match="each column beside the label is left out"):
        draft(tmp_path, tmp_path / "log.csv")
    (tmp_path / "log.csv").write_text("a,b\n1,0.5\n2,1.5\n")
    with pytest.raises(InputError, match="no column is the label"):
        draft(tmp_path, tmp_path / "log.csv")
