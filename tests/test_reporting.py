import json
import math

from tf4ctr import reporting


def test_undefined_metrics_are_not_in_metrics_json(tmp_path):
    reporting.write_metrics({"a": 1, "b": math.nan, "c": -math.inf, "d": None, "e": "x"}, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"a": 1, "d": None, "e": "x"}


def test_metrics_json_is_whole_or_absent(tmp_path):
    reporting.write_metrics({"test/auc": 0.123456789012345}, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"test/auc": 0.123456789012345}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
