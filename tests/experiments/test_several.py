from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import ListConfig

from tf4ctr.experiments.several import as_paths, joined


def test_several_values_become_one_list():
    arguments = ["run=outputs/2026-11-25/1-dnn,/a/b", "by=user", "heads=true"]
    written = joined(arguments, "run")
    assert written == ["run=[outputs/2026-11-25/1-dnn,/a/b]", *arguments[1:]]
    assert OverridesParser.create().parse_override(written[0]).value() == ["outputs/2026-11-25/1-dnn", "/a/b"]


@pytest.mark.parametrize("arguments", [["run=a"], ["run=[a,b]"], ["runs=a,b"], ["-m", "run=a,b"]])
def test_other_arguments_stay_as_they_are(arguments):
    assert joined(arguments, "run") == arguments


def test_paths_are_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert as_paths(None) == []
    assert as_paths("a/b") == [tmp_path / "a" / "b"]
    assert as_paths(ListConfig(["~/a", "/b"])) == [Path.home() / "a", Path("/b")]
