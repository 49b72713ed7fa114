"""Connections between ranks in one process; tests/training/test_processes.py starts several."""

import time

import pytest
from torch.distributed import HashStore

from tf4ctr import ranks
from tf4ctr.errors import InputError
from tf4ctr.ranks import First, Other, Place


@pytest.fixture
def exits(monkeypatch):
    """Exit statuses, one for each process that would have ended."""
    exits = []
    monkeypatch.setattr(ranks, "_exit", exits.append)
    monkeypatch.setattr(ranks, "DOUBT", 0.2)
    return exits


@pytest.fixture
def first(exits, monkeypatch):
    first = First(2, "127.0.0.1")
    monkeypatch.setattr(ranks, "_own", first)
    return first


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_others_start_with_the_folder_and_checkpoint_of_the_first(first, tmp_path):
    other = Other(Place(1, 2), first.address)
    ranks.start(tmp_path / "run", tmp_path / "last.ckpt")
    expected = [f'hydra.run.dir="{tmp_path}/run"', "hydra.output_subdir=null", "hydra/job_logging=console"]
    assert other.overrides() == [*expected, f'ckpt="{tmp_path}/last.ckpt"']
    late = Other(Place(1, 2), first.address)
    assert late.overrides()[0] == expected[0]


def test_a_failed_rank_ends_all_with_one_message(first, exits, tmp_path, capfd):
    ranks.start(tmp_path, None)
    other, third = (Other(Place(rank, 3), first.address) for rank in (1, 2))
    assert other.overrides() == third.overrides()
    other.report(2, "[bold red]error:[/] a mistake")
    wait_for(lambda: exits == [2, 2])
    first.report(2, "[bold red]error:[/] the same mistake")
    first.report(1, "[bold red]error:[/] what follows from it", doubtful=True)
    time.sleep(0.3)
    assert first.wait() == 2
    assert capfd.readouterr().err == "error: rank 1: a mistake\n"


def test_a_killed_rank_explains_the_errors_of_the_others(first, exits, capfd):
    other = Other(Place(1, 2), first.address)
    wait_for(lambda: first._links)
    first.report(1, "[bold red]error:[/] Connection closed by peer", doubtful=True)
    other._link.close()
    assert first.wait() == 1
    assert capfd.readouterr().err.startswith("error: rank 1 of this run was killed")


def test_an_unexplained_error_is_shown_if_nothing_explains_it(first, exits, capfd):
    other = Other(Place(1, 2, by_lightning=True), first.address)
    other.report(1, "[bold red]error:[/] Traceback", doubtful=True)
    assert first.wait() == 1
    assert capfd.readouterr().err == "error: rank 1: Traceback\n"


def test_the_end_of_a_good_run_ends_nobody(first, exits, tmp_path):
    ranks.start(tmp_path, None)
    others = [Other(Place(rank, 3), first.address) for rank in (1, 2)]
    for other in others:
        other.overrides()
    others[0].leave()
    first.leave()
    others[1].leave()
    for other in others:
        other._link.close()
    time.sleep(0.1)
    first.report(1, "too late")
    assert exits == []


def test_a_stranger_cannot_end_the_run(first, exits, capfd):
    address, _, _ = first.address.rpartition(" ")
    Other(Place(1, 2), f"{address} wrong").report(1, "stop")
    time.sleep(0.1)
    assert first._links == []
    assert capfd.readouterr().err == ""


def test_a_restarted_torchrun_continues_in_the_folder_of_the_earlier_attempt(first, tmp_path, monkeypatch):
    for attempt in (0, 1):
        (tmp_path / f"logs/attempt_{attempt}/0").mkdir(parents=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", f"{tmp_path}/logs/attempt_0/0/error.json")
    assert ranks._left_by_earlier_attempt() == []
    ranks.start(tmp_path / "run", None)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", f"{tmp_path}/logs/attempt_1/0/error.json")
    assert ranks._left_by_earlier_attempt() == [f'hydra.run.dir="{tmp_path}/run"']
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").touch()
    assert ranks._left_by_earlier_attempt()[1] == f'ckpt="{tmp_path}/run/checkpoints/last.ckpt"'


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        ({"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "2"}, Place(1, 2)),
        ({"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, Place(3, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, None),  # a batch script
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "interactive"}, None),
        ({"TF4CTR_FIRST_RANK": "...", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, Place(1, 2, by_lightning=True)),
    ],
)
def test_the_place_of_a_process_is_read_from_its_environment(environment, place, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ranks._place() == place


def test_devices_must_be_as_many_as_started_processes(first, tmp_path):
    with pytest.raises(InputError, match="2 processes were started, and trainer has 1 device: "):
        ranks.expect(1, tmp_path, None)
    ranks.expect(2, tmp_path, None)


def test_a_sweep_of_several_processes_is_refused(first, tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "_place", lambda: Place(0, 2))
    monkeypatch.setattr(ranks, "_meet", lambda place: HashStore())
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setattr(ranks, "_store", None)
    with pytest.raises(InputError, match="2 processes were started, and -m starts a sweep"):
        ranks.join(["-m", "seed=1,2"])
    assert ranks.join(["seed=1"]) == []
