import csv
import json
import struct
from types import SimpleNamespace
from urllib.parse import urlparse

import pytest
import torch
import wandb
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure
from wandb.proto import wandb_internal_pb2

from tf4ctr.training.loggers import INIT_TIMEOUT, EpochCSV, send_report, wandb_address, wandb_logger, wandb_offline


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_row_per_validation_with_the_training_before_it(tmp_path):
    logger = EpochCSV(str(tmp_path))
    logger.log_metrics({"step/loss": 3.0, "epoch": 0}, 5)
    third = float(torch.tensor(0.3333))  # as Lightning passes it
    logger.log_metrics({"val/auc": 0.6, "lr": 1e-3, "train/loss": 0.6, "epoch": third}, 2)
    logger.log_metrics({"val/auc": 0.7, "lr": 1e-3, "epoch": 1.0}, 9)
    logger.log_metrics({"train/loss": 0.5, "epoch": 1.0}, 9)
    logger.log_metrics({"val/auc": 0.8, "lr": 1e-3, "epoch": 2.0}, 19)
    logger.log_metrics({"test/auc": 0.6, "epoch": 2}, 20)
    assert read(tmp_path / "metrics.csv") == [
        {"epoch": "0.3333", "step": "2", "lr": "0.001", "train/loss": "0.6", "val/auc": "0.6"},
        {"epoch": "1", "step": "9", "lr": "0.001", "train/loss": "0.5", "val/auc": "0.7"},
        {"epoch": "2", "step": "19", "lr": "0.001", "train/loss": "", "val/auc": "0.8"},
    ]


def test_a_resumed_run_keeps_earlier_epochs_and_drops_later_ones(tmp_path):
    first = EpochCSV(str(tmp_path))
    for number in range(4):
        first.log_metrics({"val/auc": number / 10, "epoch": (number + 1) / 2}, number)
    second = EpochCSV(str(tmp_path))
    second.log_metrics({"val/auc": 0.9, "epoch": 1.5}, 2)
    assert [(row["epoch"], row["val/auc"]) for row in read(tmp_path / "metrics.csv")] == [
        ("0.5", "0.0"),
        ("1", "0.1"),
        ("1.5", "0.9"),
    ]
    second.log_metrics({"val/auc": 0.8, "epoch": 1}, 2)  # outside of fit, Lightning gives an int
    assert [row["epoch"] for row in read(tmp_path / "metrics.csv")] == ["0.5", "1"]


def records(data):
    """Records of an offline run's file: a 7-byte header, then LevelDB's log format.

    That format has blocks of 32 KiB; a record may be split over several of them.
    """
    assert data.startswith(b":W&B")
    position, record = 7, b""
    while position + 7 <= len(data):
        remaining = 32768 - position % 32768
        if remaining < 7:  # too short for a record's header: padding
            position += remaining
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def offline_records(folder, kind):
    """The records of one kind (`run`, `history`, ...) in an offline W&B run."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    of_kind = []
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == kind:
            of_kind.append(getattr(record, kind))
    return of_kind


def offline_history(folder):
    """The metrics in an offline W&B run, row by row."""
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in history.item}
        for history in offline_records(folder, "history")
    ]


def check_logged_offline(folder):
    """Log two rows to W&B, which must be offline, and find them in its file."""
    logger = wandb_logger(str(folder), project="p", name="n")
    logger.log_metrics({"val/auc": 0.75, "epoch": 0}, 9)
    logger.log_metrics({"train/loss": 0.5, "epoch": 0}, 9)
    (run,) = (folder / "wandb").glob("offline-run-*")
    assert wandb_offline() == f"W&B: to send this run: wandb sync {run}"
    assert wandb_address() is None
    logger.experiment.finish()
    assert wandb_offline() is None
    wandb.teardown()  # waits for the service, which writes the file after finish() returns
    history = offline_history(folder)
    assert any(row.get("val/auc") == 0.75 for row in history)
    assert any(row.get("train/loss") == 0.5 for row in history)


def test_without_a_key_wandb_logs_offline_and_says_so_once(tmp_path, monkeypatch, caplog):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    caplog.set_level("INFO")
    check_logged_offline(tmp_path)
    assert caplog.text.count("no API key found, logging offline") == 1


@pytest.fixture
def no_key(tmp_path, monkeypatch):
    """No key, no mode and no server of the machine; W&B reads the variables anew."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_INIT_TIMEOUT", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.parametrize(
    ("environment", "mode"), [({"WANDB_API_KEY": "k" * 40}, "online"), ({"WANDB_MODE": "disabled"}, "disabled")]
)
def test_a_key_or_a_mode_decides(tmp_path, monkeypatch, no_key, environment, mode):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    logger = wandb_logger(str(tmp_path), project="p", name="n")  # no connection before the first metric
    assert logger._wandb_init["mode"] == mode


@pytest.mark.parametrize(
    ("environment", "host", "mode"),
    [
        ({}, urlparse(wandb.Settings().base_url).netloc, "online"),  # what `wandb login` writes
        ({}, "api.wandb.ai", "online"),  # what it wrote before
        ({}, "wandb.example.org", "offline"),
        ({"WANDB_BASE_URL": "https://wandb.example.org"}, "wandb.example.org", "online"),
        ({"WANDB_BASE_URL": "http://localhost:8080"}, "localhost:8080", "online"),
        ({"WANDB_BASE_URL": "https://wandb.example.org"}, "api.wandb.ai", "offline"),
        ({"NETRC": "~/keys"}, "api.wandb.ai", "online"),
    ],
)
def test_the_key_of_wandb_login_is_found(tmp_path, monkeypatch, no_key, environment, host, mode):
    keys = tmp_path / ("keys" if "NETRC" in environment else ".netrc")
    keys.write_text(f"machine {host}\n  login user\n  password {'k' * 40}\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wandb_logger(str(tmp_path), project="p", name="n")._wandb_init["mode"] == mode


@pytest.mark.parametrize(("variable", "seconds"), [(None, INIT_TIMEOUT), ("60", 60)])
def test_a_run_that_cannot_reach_wandb_goes_on_offline(tmp_path, monkeypatch, no_key, caplog, variable, seconds):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    if variable:
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", variable)
    start, timeouts = wandb.init, []

    def init(mode, settings, **options):
        if mode == "online":
            merged = wandb.setup().settings.model_copy()
            merged.update_from_settings(settings)
            timeouts.append(merged.init_timeout)
            raise wandb.errors.CommError("context deadline exceeded\nwhile retrying")
        return start(mode=mode, settings=settings, **options)

    monkeypatch.setattr(wandb, "init", init)
    caplog.set_level("INFO")
    check_logged_offline(tmp_path)
    assert timeouts == [seconds]  # tried once
    connecting, warning = (record.getMessage() for record in caplog.records if "W&B" in record.getMessage())
    assert connecting == "W&B: connecting"
    assert warning == (
        "W&B cannot be reached, or refuses the key: logging offline; later: wandb sync"
        f" {tmp_path}/wandb/offline-run-* (W&B says: context deadline exceeded while retrying)"
    )


def test_only_the_first_rank_starts_a_run(tmp_path, monkeypatch, no_key):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr(wandb, "init", lambda **options: pytest.fail("another rank started a run"))
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = wandb_logger(str(tmp_path), project="p", name="n")
    logger.log_metrics({"val/auc": 0.75, "epoch": 0}, 9)
    logger.experiment.log({"val/auc": 0.75})


def test_the_address_of_an_online_run_is_known(monkeypatch):
    """With a run in place of an online one, which would need an account."""
    monkeypatch.setattr(wandb, "run", SimpleNamespace(url="https://wandb.ai/me/tf4ctr/runs/1", offline=False))
    assert wandb_address() == "https://wandb.ai/me/tf4ctr/runs/1"
    assert wandb_offline() is None


def test_offline_by_choice_is_not_said_to_be_a_missing_key(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "offline")
    caplog.set_level("INFO")
    wandb_logger(str(tmp_path), project="p", name="n")
    assert "WANDB_MODE=offline, logging offline" in caplog.text


def test_a_report_is_one_run_in_the_group_of_its_jobs(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    sweep = tmp_path / "2026-01-02" / "03-04-05"
    (sweep / "0").mkdir(parents=True)
    (sweep / "0" / "config.yaml").write_text(
        "logger: {wandb: {project: ctr, group: 2026-01-02/03-04-05, entity: null}}"
    )
    Figure().savefig(sweep / "curves.png")
    send_report(sweep, [["setting", "test AUC"], ["ssem=ser", "0.9869"], ["ssem=gm", "0.9850"]])
    wandb.teardown()  # as above
    (run,) = offline_records(sweep, "run")
    assert (run.display_name, run.run_id, run.run_group, run.project) == (
        "report-2026-01-02-03-04-05",
        "report-2026-01-02-03-04-05",
        "2026-01-02/03-04-05",
        "ctr",
    )
    (path,) = sweep.glob("wandb/offline-run-*/files/media/table/report*.json")
    table = json.loads(path.read_text())
    assert table["columns"] == ["setting", "test AUC"]
    assert table["data"] == [["ssem=ser", "0.9869"], ["ssem=gm", "0.9850"]]
    assert list(sweep.glob("wandb/offline-run-*/files/media/images/curves*.png"))


def test_a_report_of_jobs_without_wandb_is_not_sent(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "config.yaml").write_text("logger: {csv: {}}")
    send_report(tmp_path, [["setting"], ["a"]])
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
