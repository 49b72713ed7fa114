"""Two ranks wait for each other every ten steps only: to agree on a checkpoint and on a signal."""

import os
import signal
import socket

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed

from conftest import WARM
from training.small_run import SignalAt, run


class InterruptRank1(SignalAt):
    """Sends rank 1 a signal in step 13, and keeps when torch's collectives are called."""

    def __init__(self):
        super().__init__(signal.SIGINT, "on_before_backward", 12)
        self.meetings = set()

    def send(self, trainer, *args):
        if trainer.global_rank == 1:
            super().send(trainer)

    def on_train_start(self, trainer, module):
        for name in ("all_reduce", "broadcast", "all_gather", "barrier"):
            setattr(distributed, name, self.recorded(trainer, getattr(distributed, name)))

    def recorded(self, trainer, function):
        def call(*args, **options):
            self.meetings.add(trainer.global_step)
            return function(*args, **options)

        return call


def train(rank, port, dataset, folder):
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    interrupt = InterruptRank1()
    strategy = DDPStrategy(process_group_backend="gloo", static_graph=True)
    end = run(dataset, folder, extra=interrupt, batch_size=16, minutes=60, devices=2, strategy=strategy)
    (folder / f"{rank}.txt").write_text(f"{end} {sorted(interrupt.meetings)}")


def test_ranks_meet_every_ten_steps_and_stop_together(dataset, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [WARM.Process(target=train, args=(rank, port, dataset, tmp_path)) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for number, rank in enumerate(ranks):
        rank.join(120)
        rank.kill()
        assert (tmp_path / f"{number}.txt").read_text() == "None [10, 20]"
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 20
