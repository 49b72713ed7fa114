import json

from tf4ctr import reporting


def test_metrics_json_is_whole_or_absent(tmp_path):
    reporting.write_metrics({"test/auc": 0.123456789012345}, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"test/auc": 0.123456789012345}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
