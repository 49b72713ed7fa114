"""The processes of one run: they use one folder, and they end together with one message.

A run on several devices has one process (rank) for each. torchrun or srun starts all of them; else
Lightning starts the others from the first. The first rank listens on a port, and every other rank
connects to it. Over these connections

- the first rank tells the others the folder of the run, when the dataset is prepared;
- a rank that fails tells why. The first rank prints this, once, and all ranks end. A rank in a
  collective operation would wait for the failed one otherwise.

The system closes the connection of a killed process, so that this is noticed, too.
"""

import json
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from tf4ctr.errors import InputError

ADDRESS = "TF4CTR_FIRST_RANK"  # host, port and token, for the processes that Lightning starts
MEETING = timedelta(minutes=10)  # srun may start the processes of a busy node late
DOUBT = 2.0  # seconds: an unexplained error may follow from another rank's, whose message is better
LATE = 10.0  # seconds that a rank may start later than the first
GRACE = 30.0  # seconds in which the first rank can leave a collective operation and close its loggers
INTERRUPTED = 130  # exit status


class Place(NamedTuple):
    """Which of the run's processes this one is."""

    rank: int
    ranks: int
    by_lightning: bool = False  # whether Lightning started it


class First:
    """The first rank's side of the connections.

    Args:
        ranks: the number of processes.
        host: the name by which the others find this machine.
    """

    def __init__(self, ranks: int, host: str) -> None:
        self.ranks = ranks
        self._server = _listen(host)
        self._token = secrets.token_hex()
        self.address = f"{host} {self._server.getsockname()[1]} {self._token}"
        self._lock = threading.RLock()
        self._all_here = threading.Condition(self._lock)
        self._links: list[socket.socket] = []
        self._said: list[dict[str, Any]] = []  # to all, also to those that connect later
        self._over = False  # a message was chosen, or the run has ended well
        self._ended = threading.Event()
        self.status = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            link, _ = self._server.accept()
            threading.Thread(target=self._follow, args=(link,), daemon=True).start()

    def _follow(self, link: socket.socket) -> None:
        messages = _messages(link)
        hello = next(messages, {})
        if hello.get("token") != self._token:
            link.close()
            return
        with self._all_here:
            self._links.append(link)
            for message in self._said:
                _send(link, message)
            self._all_here.notify()
        for message in messages:
            if "leaves" in message:
                return
            self.report(**message)
        killed = f"rank {hello['rank']} of this run was killed, by hand or because its machine has no memory left"
        self.report(1, f"[bold red]error:[/] {killed}")

    def say(self, message: dict[str, Any]) -> None:
        """Send a message to all other ranks."""
        with self._lock:
            self._said.append(message)
            for link in self._links:
                _send(link, message)

    def report(self, status: int, text: str, doubtful: bool = False) -> None:
        """End all ranks, because one has failed.

        Only the first report that is not doubtful counts.
        """
        if doubtful:
            timer = threading.Timer(DOUBT, self.report, (status, text))
            timer.daemon = True
            timer.start()
            return
        with self._lock:
            if self._over:
                return
            self._over, self.status = True, status
        _print(text)
        self.say({"end": status})
        self._ended.set()
        timer = threading.Timer(GRACE, _exit, (status,))
        timer.daemon = True
        timer.start()

    def wait(self) -> int:
        """Wait until a message is chosen and told to all; returns the exit status."""
        self._ended.wait(2 * DOUBT)
        with self._all_here:  # some may still be starting
            self._all_here.wait_for(lambda: len(self._links) >= self.ranks - 1, LATE)
        return self.status

    def leave(self) -> None:
        """The run has ended well."""
        with self._lock:
            if not self._over:
                self._over = True
                self.say({"end": 0})


class Other:
    """Another rank's side of its connection.

    Args:
        place: of this process.
        address: of the first rank.
    """

    def __init__(self, place: Place, address: str) -> None:
        self.ranks, self._place = place.ranks, place
        host, port, token = address.split()
        self._link = socket.create_connection((host, int(port)), MEETING.total_seconds())
        self._link.settimeout(None)
        _keep_alive(self._link)
        self._messages = _messages(self._link)
        _send(self._link, {"token": token, "rank": place.rank})

    def overrides(self) -> list[str]:
        """Wait for the first rank; returns what the command line needs for its run."""
        for message in self._messages:
            if "start" in message:
                threading.Thread(target=self._follow, daemon=True).start()
                return message["start"]
            self._end(message["end"])
        return self._lose()

    def _follow(self) -> None:
        for message in self._messages:
            if message["end"] == 0:
                return
            self._end(message["end"])
        self._lose()

    def _lose(self) -> Any:
        if self._place.rank == 1:
            _print("[bold red]error:[/] the first rank of this run was killed, by hand or because of its memory")
        self._end(1)

    def _end(self, status: int) -> Any:
        # Lightning kills the first rank, with its message, if a process that it started fails
        _exit(0 if self._place.by_lightning else status)

    def report(self, status: int, text: str, doubtful: bool = False) -> None:
        """Tell the first rank that this one has failed."""
        text = text.replace("error:[/] ", f"error:[/] rank {self._place.rank}: ", 1)
        _send(self._link, {"status": status, "text": text, "doubtful": doubtful})

    def wait(self) -> int:
        """Wait to be ended by the first rank; else this is the exit status."""
        threading.Event().wait(2 * DOUBT)
        return 1

    def leave(self) -> None:
        """The run has ended well."""
        _send(self._link, {"leaves": True})


_own: First | Other | None = None  # None: the run has one process, or Lightning has not started the others
_store: Any = None  # kept, as the first rank of srun is its server


def join(command_line: Sequence[str]) -> list[str]:
    """Connect the processes of this run, if torchrun, srun or Lightning started several.

    All but the first wait here until `start`.

    Returns:
        overrides for the command line: the folder of the run where it is known.

    Raises:
        InputError: the command line is that of a sweep, or the processes do not meet.
    """
    global _own, _store
    place = _place()
    if place is None:
        return []
    if place.rank:
        return _join_first(place)
    _store = _meet(place)
    _own = First(place.ranks, os.environ["MASTER_ADDR"])
    _store.set("address", _own.address)
    if {"-m", "--multirun"} & {*command_line}:
        raise InputError(
            f"{place.ranks} processes were started, and -m starts a sweep: each of its jobs would need processes of"
            " its own; run the jobs one by one, or the sweep without torchrun and srun on one device"
        )
    return _left_by_earlier_attempt()


def _join_first(place: Place) -> list[str]:
    """Connect to the first rank and wait for it."""
    global _own
    try:
        _own = Other(place, os.environ[ADDRESS] if place.by_lightning else _meet(place).get("address").decode())
        return _own.overrides()
    except OSError as error:
        raise InputError(f"rank {place.rank} cannot connect to the first rank of this run: {error}") from error
    except KeyboardInterrupt:  # the first rank says so
        if _own:
            report_interrupt(KeyboardInterrupt())
        _exit(INTERRUPTED)
        raise


def _place() -> Place | None:
    """This process among those of the run; None if it is the only one."""
    if ADDRESS in os.environ:
        return Place(int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"]), by_lightning=True)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        place = Place(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    # a batch script has the variables of a job, too, but it is in no step
    elif "SLURM_STEP_ID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        place = Place(int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"]))
    else:
        return None
    return place if place.ranks > 1 else None


def _meet(place: Place) -> Any:
    """The store that all processes reach: torchrun's own, else one in the first process."""
    from lightning.fabric.plugins.environments import SLURMEnvironment
    from lightning.fabric.plugins.environments.lightning import find_free_network_port
    from torch import distributed

    try:
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            environment = SLURMEnvironment()
            os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
        store, _, _ = next(iter(distributed.rendezvous("env://", place.rank, place.ranks, timeout=MEETING)))
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the {place.ranks} processes of this run do not meet: {error}") from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = distributed.PrefixStore(f"tf4ctr/{attempt}", store)
    if attempt != "0":
        # torch 2.13 keeps its store when it restarts processes: gloo would find addresses of the
        # killed ones there. With another port the process group starts a store of its own
        if place.rank == 0:
            store.set("port", str(find_free_network_port()))
        os.environ["MASTER_PORT"] = store.get("port").decode()
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    return store


def _attempts() -> Path | None:
    """A file that all attempts of one torchrun (--max-restarts) on this machine have in common."""
    errors = os.environ.get("TORCHELASTIC_ERROR_FILE")  # LOGS/attempt_N/RANK/error.json
    return Path(errors).parents[2] / "tf4ctr_run" if errors else None


def _left_by_earlier_attempt() -> list[str]:
    """Overrides that continue the run of an earlier attempt."""
    path = _attempts()
    if path is None or not path.exists():
        return []
    folder = Path(path.read_text())
    last = folder / "checkpoints" / "last.ckpt"
    return [f'hydra.run.dir="{folder}"', *([f'ckpt="{last}"'] if last.exists() else [])]


def start(folder: Path, checkpoint: Path | None) -> None:
    """Let the other ranks start in the run's folder. Only the first rank writes files there."""
    if not isinstance(_own, First):
        return
    if path := _attempts():
        path.write_text(str(folder))
    overrides = [f'hydra.run.dir="{folder}"', "hydra.output_subdir=null", "hydra/job_logging=console"]
    _own.say({"start": overrides + ([f'ckpt="{checkpoint}"'] if checkpoint else [])})


def expect(ranks: int, folder: Path, checkpoint: Path | None) -> None:
    """Wait for connections of the processes that Lightning will start, if it does.

    Args:
        ranks: of the trainer.
        folder, checkpoint: as for `start`.

    Raises:
        InputError: the number of processes that were started differs from `ranks`.
    """
    global _own
    started = _own.ranks if _own else 1
    if started > 1 and started != ranks:
        raise InputError(
            f"{started} processes were started, and trainer has {ranks} device{'s' if ranks > 1 else ''}: they must be"
            " equally many; use trainer=ddp, trainer=ddp_cpu or trainer=slurm with trainer.devices and"
            " trainer.num_nodes"
        )
    if ranks > 1 and _own is None:
        _own = First(ranks, "127.0.0.1")
        os.environ[ADDRESS] = _own.address
        start(folder, checkpoint)


def report_interrupt(error: BaseException) -> None:
    """Tell all ranks if this one was interrupted, before Lightning kills those that it started."""
    if _own and isinstance(error, KeyboardInterrupt):
        _own.report(INTERRUPTED, "[yellow]stopped by hand[/]")


def fail(status: int, text: str, doubtful: bool = False) -> None:
    """End all ranks with one message and exit; a run of one process goes on to the caller.

    Args:
        status: the exit status.
        text: the message, as rich's markup.
        doubtful: the error may follow from another rank's.
    """
    if _own is None:
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # torchrun sends a signal again
        signal.signal(number, signal.SIG_IGN)
    _own.report(status, text, doubtful)
    _exit(_own.wait())


def leave() -> None:
    """This rank has done its work."""
    if _own:
        _own.leave()


def _print(text: str) -> None:
    Console(stderr=True, soft_wrap=True).print(text)


def _exit(status: int) -> Any:
    """End this process, also if its main thread is in a collective operation."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _listen(host: str) -> socket.socket:
    if host == "127.0.0.1":
        return socket.create_server((host, 0))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _keep_alive(link: socket.socket) -> None:
    """Notice within half a minute that the other machine is gone."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):  # macOS lacks some
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _send(link: socket.socket, message: dict[str, Any]) -> None:
    with suppress(OSError):  # the other side's end is noticed where its messages are read
        link.sendall(json.dumps(message).encode() + b"\n")


def _messages(link: socket.socket) -> Iterator[dict[str, Any]]:
    """What the other side sends, until its end."""
    try:
        with link.makefile("rb") as lines:
            for line in lines:
                yield json.loads(line)
    except (OSError, ValueError):
        return
