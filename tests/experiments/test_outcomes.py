import json

import pytest

from tf4ctr.experiments.outcomes import Ending, clear_outcome, jobs_in, read_outcome, write_error, write_pruned

TRAINED = {"test/auc": 0.7, "parameters": 9}


@pytest.mark.parametrize(
    ("files", "ending", "reason"),
    [
        ({"metrics.json": json.dumps(TRAINED)}, Ending.TRAINED, None),
        ({"metrics.json": json.dumps({"parameters": 9})}, Ending.DRY_RUN, "dry run, not trained"),
        ({"pruned.txt": "pruned after epoch 1\n"}, Ending.PRUNED, "pruned after epoch 1"),
        ({"error.txt": "pruned after epoch 1\n"}, Ending.PRUNED, "pruned after epoch 1"),  # of earlier code
        ({"error.txt": "two\nlines\n"}, Ending.FAILED, "two lines"),
        ({"error.txt": "Traceback (most recent call last):\n  ...\nKeyError: 1\n"}, Ending.FAILED, "KeyError: 1"),
        ({"error.txt": ""}, Ending.FAILED, ""),
        ({}, Ending.STOPPED, "stopped before its end"),
    ],
)
def test_files_tell_how_a_job_ended(tmp_path, files, ending, reason):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert read_outcome(tmp_path)[:2] == (ending, reason)


def test_what_is_written_is_read_and_can_be_cleared(tmp_path):
    write_error(tmp_path, "an error")
    assert read_outcome(tmp_path) == (Ending.FAILED, "an error", {})
    clear_outcome(tmp_path)
    write_pruned(tmp_path, "pruned after epoch 2")
    assert read_outcome(tmp_path) == (Ending.PRUNED, "pruned after epoch 2", {})
    clear_outcome(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_jobs_are_ordered_by_number(tmp_path):
    for name in ("10", "2", "1"):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / ".hydra" / "overrides.yaml").touch()
    (tmp_path / "no-job").mkdir()
    assert [job.name for job in jobs_in(tmp_path)] == ["1", "2", "10"]
