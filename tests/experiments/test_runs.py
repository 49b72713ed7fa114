import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from omegaconf import OmegaConf

import conftest
from tf4ctr.errors import InputError
from tf4ctr.experiments import runs


def test_root_is_the_folder_of_the_project():
    assert conftest.ROOT == runs.ROOT


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    runs.run_folder.cache_clear()
    yield tmp_path
    runs.run_folder.cache_clear()


def make_run(root, name, age):
    checkpoint = root / "outputs" / "2026-01-01" / name / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    os.utime(checkpoint, (age, age))
    (checkpoint.parent.parent / "config.yaml").write_text("seed: 1\n")
    return checkpoint


def test_runs_of_the_same_second_get_folders_of_their_own(root):
    start = threading.Barrier(8)

    def new(_):
        start.wait()
        return runs.run_folder.__wrapped__(None, "deepfm-frappe")

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(new, range(8)))
    assert len(set(folders)) == 8
    assert all(folder.is_dir() and "deepfm-frappe" in folder.name for folder in folders)


def test_a_process_gets_the_same_folder_every_time(root):
    assert runs.run_folder(None, "a") == runs.run_folder(None, "a")


def test_a_dry_run_has_a_temporary_folder_even_if_it_names_a_run(root):
    checkpoint = make_run(root, "run", 1000)
    folder = runs.run_folder(str(checkpoint), "a", True)
    assert folder.is_dir()
    assert runs.is_temporary(folder)
    assert not runs.is_temporary(runs.run_folder(str(checkpoint), "a", False))
    runs.remove_temporary()
    assert not folder.exists()
    assert checkpoint.exists()


def test_last_is_the_newest_checkpoint_and_its_run_keeps_its_folder(root):
    make_run(root, "old", 1000)
    newest = make_run(root, "new", 3000)
    make_run(root, "middle", 2000)
    assert runs.find_checkpoint("last") == newest
    assert runs.run_folder("last", "x") == newest.parent.parent
    assert runs.run_folder(str(newest), "x") == newest.parent.parent


def test_a_checkpoint_without_a_run_gets_a_new_folder(root):
    (root / "lonely.ckpt").touch()
    assert runs.run_folder(str(root / "lonely.ckpt"), "x").parent.parent == root / "outputs"


def test_the_folder_of_a_run_names_its_last_checkpoint(root):
    checkpoint = make_run(root, "run", 1000)
    folder = checkpoint.parent.parent
    assert runs.find_checkpoint(str(folder)) == checkpoint
    assert runs.run_folder(str(folder), "x") == folder
    with pytest.raises(InputError, match="the folder has no checkpoints/last.ckpt; name the folder of a run"):
        runs.find_checkpoint(str(folder.parent))


def test_a_missing_checkpoint_is_an_error(root):
    with pytest.raises(InputError, match="no run in .* has a checkpoints/last.ckpt"):
        runs.find_checkpoint("last")
    with pytest.raises(InputError, match="ckpt=nowhere.ckpt: the file does not exist"):
        runs.find_checkpoint("nowhere.ckpt")


def test_other_settings_are_an_error_that_names_them(tmp_path):
    config = {
        "seed": 1,
        "loss": {"alpha": 0.25, "c": 1},
        "trainer": {"max_epochs": 3},
        "dataset": {"raw_dir": "a", "min_count": 2},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    runs.check_same_run(tmp_path, config)
    runs.check_same_run(tmp_path, {**config, "trainer": {"max_epochs": 9}, "dataset": {"raw_dir": "b", "min_count": 2}})
    with pytest.raises(InputError, match=r"(?s)loss.alpha: 0.25 -> 0.5.*seed: 1 -> 2"):
        runs.check_same_run(tmp_path, {**config, "seed": 2, "loss": {"alpha": 0.5, "c": 1}})


def test_a_run_of_a_version_without_a_group_resumes(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1")
    runs.check_same_run(tmp_path, {"seed": 1, "number": {"bins": 32}})
    (tmp_path / "config.yaml").write_text("{seed: 1, number: {bins: 16}}")
    with pytest.raises(InputError, match="number.bins: 16 -> 32"):
        runs.check_same_run(tmp_path, {"seed": 1, "number": {"bins": 32}})


def test_a_run_of_a_version_without_an_option_resumes_as_if_it_were_off(tmp_path):
    started = {"embedding": {"l2": 0.1}, "backbone": {"simple": {"layers": 2}}}
    (tmp_path / "config.yaml").write_text(json.dumps(started))
    simple = {"layers": 2, "scale": False, "embedding_l2": 0.1}
    runs.check_same_run(tmp_path, {**started, "backbone": {"simple": simple}})
    for name, value, message in (("scale", True, "None -> True"), ("embedding_l2", 0.01, r"0\.1 -> 0\.01")):
        with pytest.raises(InputError, match=rf"backbone\.simple\.{name}: {message}"):
            runs.check_same_run(tmp_path, {**started, "backbone": {"simple": {**simple, name: value}}})


def test_a_run_of_a_version_that_did_not_calibrate_resumes_without(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1")
    runs.check_same_run(tmp_path, {"seed": 1, "calibrate": False})
    with pytest.raises(InputError, match="calibrate: False -> True"):
        runs.check_same_run(tmp_path, {"seed": 1, "calibrate": True})


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        ("tf4ctr.optim.RowwiseAdam", "tf4ctr.training.optim.RowwiseAdam", True),
        ("torch.optim.Adam", "tf4ctr.training.optim.RowwiseAdam", True),  # version 0.1.0
        ("torch.optim.Adam", "torch.optim.Adam", True),
        ("tf4ctr.training.optim.RowwiseAdam", "torch.optim.Adam", False),
        ("torch.optim.Adam", "torch.optim.AdamW", False),
        ("torch.optim.Adam", "elsewhere.Adam", False),
    ],
)
def test_a_class_may_move_to_another_module_but_not_become_another(tmp_path, before, now, same):
    (tmp_path / "config.yaml").write_text(json.dumps({"optimizer": {"_target_": before}}))
    if same:
        runs.check_same_run(tmp_path, {"optimizer": {"_target_": now}})
    else:
        with pytest.raises(InputError, match=f"optimizer._target_: {before} -> {now}"):
            runs.check_same_run(tmp_path, {"optimizer": {"_target_": now}})


def test_the_config_is_written_whole_and_resolved(tmp_path):
    runs.write_config(tmp_path, OmegaConf.create({"seed": 1, "other": "${seed}"}))
    assert (tmp_path / "config.yaml").read_text() == "seed: 1\nother: 1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def holds(folder, answers):
    try:
        runs.hold(folder)
    except InputError as error:
        answers.put(str(error))
    else:
        answers.put("held")
        runs.let_go(folder)


def test_a_folder_is_held_by_one_process_at_a_time(tmp_path):
    answers = conftest.WARM.Queue()

    def other():
        process = conftest.WARM.Process(target=holds, args=(tmp_path, answers))
        process.start()
        answer = answers.get(timeout=60)
        process.join()
        return answer

    with runs.folder_lock(tmp_path):  # as a process that starts a training in itself
        runs.hold(tmp_path)
        assert "another process is at work in this folder" in other()
        runs.let_go(tmp_path)
    runs.let_go(tmp_path)
    assert other() == "held"


def test_a_finished_run_is_not_replaced_and_leftovers_are_removed(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    names = ("metrics.csv", "checkpoints/best.ckpt", "own.csv")
    for name in names:
        (tmp_path / name).touch()
    runs.check_unused(tmp_path)
    runs.remove_leftovers(tmp_path)
    assert [name for name in names if (tmp_path / name).exists()] == ["own.csv"]
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(InputError, match="has a stopped run, which a new one would replace.*last.ckpt goes on with it"):
        runs.check_unused(tmp_path)
    (tmp_path / "metrics.json").write_text('{"test/auc": 0.7}')
    with pytest.raises(InputError, match="has a finished run, which a new one would replace"):
        runs.check_unused(tmp_path)


def test_a_stopped_run_resumes_from_its_last_checkpoint(tmp_path):
    assert runs.left_checkpoint(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert runs.left_checkpoint(tmp_path) == tmp_path / "checkpoints" / "last.ckpt"
