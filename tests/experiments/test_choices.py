import pytest

from tf4ctr.errors import InputError
from tf4ctr.experiments.choices import CONF, choice_names, own_names, read_choice, read_groups, read_values

YAML = """\
# @package _global_
# A title: of the
# first sentence. And a second one.
defaults:
  - base
  - /encoder@simple: fm
  - override /ssem: shared

# above
lr: 1e-3
betas: [0.9, 0.99]   # behind,
                     # and below
deep:   # a heading
  _target_: x
  name: "a b"
  items:
    - one
    - {name: two, width: 3}
empty:
"""


def test_values_have_their_text_and_their_comment():
    assert [tuple(value) for value in read_values(YAML)] == [
        ("lr", "1e-3", "above"),
        ("betas", "[0.9,0.99]", "behind, and below"),
        ("deep", "", "a heading"),
        ("deep.name", '"a b"', ""),
        ("deep.items", "[one,{name:two,width:3}]", ""),
        ("empty", "null", ""),
    ]


def test_the_comment_of_a_yaml_is_not_that_of_its_first_value():
    assert [tuple(value) for value in read_values("# a title\nlr: 1\n")] == [("lr", "1", "")]


def test_a_choice_has_a_title_and_what_it_is_composed_of(tmp_path):
    (tmp_path / "experiment" / "own").mkdir(parents=True)
    (tmp_path / "experiment" / "own" / "a.yaml").write_text(YAML)
    choice = read_choice("experiment", "own/a", [CONF, tmp_path])
    assert (choice.title, choice.bases, choice.is_global) == ("A title: of the first sentence", ("base",), True)
    assert choice.sets == ("encoder@simple=fm", "ssem=shared")
    assert read_choice("experiment", "own/b", [CONF, tmp_path]) is None


def test_an_entry_point_with_the_defaults_of_another_has_its_groups():
    train, replay = ({group.name: group for group in read_groups(name)} for name in ("train", "replay"))
    assert train["logger"].default == "default"
    assert replay["logger"].default == "csv"
    assert {**train, "logger": None} == {**replay, "logger": None}


GROUPS = [path.name for path in sorted(CONF.iterdir()) if path.is_dir() and path.name != "hydra"]


def test_every_group_is_explained():
    groups = {group.name: group for group in read_groups("train")}
    assert sorted(groups) == GROUPS
    assert all(group.title for group in groups.values())
    assert [group.name for group in groups.values() if group.default is None] == ["encoder", "experiment", "sweep"]


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_has_a_title(group):
    choices = [read_choice(group, name) for name in choice_names(group)]
    assert choices
    assert [choice.name for choice in choices if not choice.title] == []


def test_a_drafted_dataset_is_no_choice_of_the_project(tmp_path, monkeypatch):
    monkeypatch.setattr("tf4ctr.experiments.choices.CONF", tmp_path)
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "frappe.yaml").write_text("# frappe\nname: frappe\n")
    (tmp_path / "dataset" / "books.yaml").write_text("# books: drafted by src/describe.py from log.csv\nname: books\n")
    assert choice_names("dataset") == ["books", "frappe"]
    assert own_names("dataset") == ["frappe"]


def test_a_yaml_that_is_not_valid_is_named_with_the_line(tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "books.yaml").write_text("name: books\nfields: [user\nlabel: click\n")
    with pytest.raises(InputError, match=r"books\.yaml, line 3: no valid yaml"):
        read_choice("dataset", "books", [tmp_path])
