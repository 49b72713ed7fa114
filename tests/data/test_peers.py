"""Small files as other projects ship them: each is prepared, or the error says what to do."""

import pytest

from conftest import make_spec, need_shared
from tf4ctr.data.manifest import read_manifest
from tf4ctr.data.preparation import prepare
from tf4ctr.errors import InputError

SPLITS = {"train": "*train*", "valid": "*val*", "test": "*test*"}
TAOBAO_IDS = ["userid", "adgroup_id", "pid", "cate_id", "campaign_id", "customer", "brand", "final_gender_code"]
CATEGORIES = [f"categorical_{number}" for number in range(1, 17)]
SEQUENCE = {"name": "click_sequence", "separator": "^", "width": 5}
YAMLS = {
    "taobao_ad": {"label": "clk", "group": "userid", "fields": [*TAOBAO_IDS, SEQUENCE], "files": SPLITS},
    "criteo": {
        "label": "label",
        "fields": [{"name": "C1"}, "C2", "C26", "I3"],
        "files": {"all": "criteo_sample.txt"},
    },
    "ali_ccp": {"label": "click", "fields": ["101", "121", "205", "D109_14"], "group": "101", "files": SPLITS},
    "aliexpress": {"label": "click", "fields": CATEGORIES, "files": {**SPLITS, "valid": "*test*"}},
    "census": {
        "label": "income",
        "fields": [{"name": "class_of_worker", "column": "class of worker"}, "education", "sex", "race"],
        "files": SPLITS,
    },
}


def spec_of(name, tmp_path, files, **options):
    layout = {"reader": "csv", **files}
    return make_spec(
        need_shared("peers") / name,
        **{
            "name": name,
            "prepared_dir": tmp_path / name,
            "group": None,
            "layouts": [layout],
            "min_count": 1,
            **options,
        },
    )


@pytest.mark.parametrize("name", YAMLS)
def test_it_is_prepared(tmp_path, name):
    manifest = read_manifest(prepare(spec_of(name, tmp_path, **YAMLS[name])))
    assert all(split["rows"] for split in manifest["splits"].values())
    assert all(size > 2 for size in manifest["vocabulary_sizes"].values())


def test_ratings_are_no_labels(tmp_path):
    files = {"all": "movielens_sample.txt"}
    with pytest.raises(InputError, match=r"column 'rating' is '4', expected 0 or 1, .*positive: \">= 4\""):
        prepare(spec_of("movielens", tmp_path, files, label="rating", fields=["user_id", "movie_id"]))


def test_events_without_a_label_are_no_click_log(tmp_path):
    files = {"all": "amazon_electronics_sample.csv"}
    with pytest.raises(
        InputError, match=r"no column 'label' in its header \(choose from: cate_id, item_id, time, user_id\)"
    ):
        prepare(spec_of("amazon", tmp_path, files, label="label", fields=["user_id", "item_id"]))
