import re

import pytest

from tf4ctr.errors import InputError
from tf4ctr.experiments.choices import CONF, choice_names, read_groups
from tf4ctr.experiments.help_text import asked, help_text

ENTRY_POINTS = sorted(path.stem for path in CONF.glob("*.yaml"))


@pytest.mark.parametrize(
    ("arguments", "topics"),
    [
        (["dataset=frappe"], None),
        (["--help"], []),
        (["-h"], []),
        (["--help", "ssem"], ["ssem"]),
        (["help=ssem"], ["ssem"]),
        (["-m", "loss=bce", "--help"], ["loss=bce"]),
    ],
)
def test_the_topics_of_a_command_line(arguments, topics):
    assert asked(arguments) == topics


def test_the_overview_is_one_screen_and_marks_the_defaults():
    lines = help_text("train", [], 80).splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 80
    for group in read_groups("train"):
        assert any(
            re.match(rf"  {group.name} +{group.default or '-'} +{re.escape(group.title)}", line) for line in lines
        )
    assert sum(line.startswith("  python src/train.py ") for line in lines) == 5
    text = "\n".join(lines)
    for part in (
        "+KEY=VALUE",
        "~KEY",
        "'KEY=[1,2]'",
        "-sc install=bash",
        "--help GROUP",
        "--help all",
        "verbose=false",
    ):
        assert part in text


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_commands_are_whole_lines_and_texts_fit(name):
    lines = help_text(name, [], 80).splitlines()
    assert f"  python src/{name}.py " in "\n".join(lines)
    assert not [line for line in lines if len(line) > 80 and not line.startswith("  ")]


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("evaluate", "split=test +or valid .*train"),
        ("export", "format=onnx +or torch_export, safetensors"),
        ("predict", "bad_rows=refuse .*or skip"),
        ("prepare", "engine=polars .*ray"),
        ("replay", "retrain=null .*all"),
    ],
)
def test_what_an_option_allows_is_visible(name, allowed):
    assert re.search(allowed, help_text(name, [], 200))


@pytest.mark.parametrize("group", [group.name for group in read_groups("train")])
def test_a_group_has_all_its_choices_and_one_default(group):
    text = help_text("train", [group], 100)
    default = next(each.default for each in read_groups("train") if each.name == group)
    for name in choice_names(group):
        assert re.search(rf"^[* ] {name} ", text, re.MULTILINE)
    assert re.findall(r"^\* (\S+)", text, re.MULTILINE) == ([default] if default else [])


def test_a_group_has_its_values_with_comments():
    text = help_text("train", ["loss"], 120)
    assert re.search(r"loss\.focus=null +one number per head", text)
    assert "${a.b} is the value of a.b" in text
    assert "backbone.simple." in help_text("train", ["encoder@backbone.simple"], 120)
    smoke = help_text("train", ["trainer=smoke"], 120)
    assert "as cpu, and:" in smoke
    assert "trainer.limit_test_batches=3" in smoke
    assert "slurm" not in smoke


def test_unknown_groups_and_choices_are_refused():
    with pytest.raises(InputError, match="--help los: there is no such group, did you mean 'loss'"):
        help_text("train", ["los"])
    with pytest.raises(InputError, match="loss=bec: there is no such choice, did you mean 'bce'"):
        help_text("train", ["loss=bec"])
    assert help_text("train", ["seed=3"], 80) == help_text("train", [], 80)
