"""The training that is shown, with small programs in the place of src/train.py."""

import builtins

import pytest

from tf4ctr.errors import InputError
from tf4ctr.experiments import processes, runs


@pytest.fixture
def program(tmp_path, monkeypatch):
    """`program(text)` is what `train_shown` runs."""
    (tmp_path / "src").mkdir()
    monkeypatch.setattr(processes, "ROOT", tmp_path)
    return (tmp_path / "src" / "train.py").write_text


def test_the_overrides_and_the_folder_are_passed_on_and_lines_are_shown(program, tmp_path, capsys):
    program("import sys\nprint(sys.argv[1:])\nprint('on stderr', file=sys.stderr)")
    folder = tmp_path / "it's"
    processes.train_shown(["seed=1"], folder, quiet=False)
    path = str(folder).replace("'", r"\'")
    assert capsys.readouterr().out.splitlines() == [str(["seed=1", f"hydra.run.dir='{path}'"]), "on stderr"]
    processes.train_shown([], folder, quiet=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (2, InputError, "x: the training was refused: no such file"),
        (1, RuntimeError, r"(?s)x: the training ended with exit status 1:.*error: no such file"),
        (130, KeyboardInterrupt, ""),
    ],
)
def test_an_exit_status_is_raised(program, tmp_path, status, error, message):
    program(f"import sys\nprint('begin')\nprint('error: no such file')\nsys.exit({status})")
    with pytest.raises(error, match=message):
        processes.train_shown([], tmp_path / "x", quiet=True)


def test_an_interrupt_lets_the_training_save(program, tmp_path, monkeypatch):
    program(
        "import signal, sys, time, pathlib\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(tmp_path)!r}, 'saved').touch(), sys.exit(130)))\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(builtins, "print", interrupted)
    with pytest.raises(KeyboardInterrupt):
        processes.train_shown([], tmp_path / "x", quiet=False)
    assert (tmp_path / "saved").exists()


def test_the_folder_is_the_given_one_that_of_a_checkpoint_or_a_new_one(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    assert processes.folder_for([f"hydra.run.dir='{tmp_path}/x'"]) == tmp_path / "x"
    new = [processes.folder_for(["backbone=dcnv2", "dataset=frappe"]) for _ in range(2)]
    assert new[0] != new[1]
    assert all(folder.is_dir() and "-dcnv2-frappe" in folder.name for folder in new)
    last = tmp_path / "old" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    (tmp_path / "old" / "config.yaml").touch()
    assert processes.folder_for([f"ckpt='{last}'"]) == tmp_path / "old"
