"""Where the time of a step goes: a table of its parts, and a trace for the usual viewers."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.utilities import rank_zero_only
from rich.table import Table

from tf4ctr import reporting

PARTS: dict[str, Callable[[str], bool]] = {  # an action of Lightning belongs to the first part that accepts it
    "waiting for data": lambda action: action.endswith(("train_dataloader_next", "batch_to_device")),
    "forward and loss": lambda action: action.endswith(".training_step"),
    "backward": lambda action: action.endswith(".backward"),
    "optimizer": lambda action: action.endswith(
        (".optimizer_step", ".optimizer_zero_grad", ".configure_gradient_clipping")
    ),
    "validation and metrics": lambda action: "validation" in action or "val_next" in action,
    "checkpoints": lambda action: "checkpoint" in action.lower(),
}
REST = "the loop, logging and other callbacks"


class StepProfiler(Profiler):
    """Times the parts of training, and traces some steps with torch's profiler.

    The time of a part excludes the parts that run inside it. At the start and the end of each part
    it waits for the accelerator, so that its time counts for the right part; this makes a step
    slower. Traced steps are not in the table.

    Args:
        dirpath: folder for trace.json, which chrome://tracing and ui.perfetto.dev open.
        skip_steps: steps before the trace.
        trace_steps: steps in the trace; 0 for no trace.
    """

    def __init__(self, dirpath: str, skip_steps: int = 5, trace_steps: int = 5) -> None:
        super().__init__(dirpath=dirpath, filename=None)
        self.path = Path(dirpath) / "trace.json"
        self.skip_steps, self.trace_steps = skip_steps, trace_steps
        self.seconds: dict[str, float] = dict.fromkeys((*PARTS, REST), 0.0)
        self.steps = 0
        self._running: list[list[float]] = []  # per running action: its start, and seconds of the actions inside it
        self._trace: torch.profiler.profile | None = None

    def start(self, action_name: str) -> None:
        if action_name == "run_training_batch":
            if self.trace_steps and self.steps == self.skip_steps:
                # without shapes: recording them keeps every tensor alive and makes steps slow
                self._trace = torch.profiler.profile()
                self._trace.start()
            self.steps += 1
        self._running.append([self._now(), 0.0])

    def stop(self, action_name: str) -> None:
        if not self._running:  # the action started before the profiler did
            return
        start, inside = self._running.pop()
        duration = self._now() - start
        if self._running:
            self._running[-1][1] += duration
        if self._trace is None:
            part = next((name for name, accepts in PARTS.items() if accepts(action_name)), REST)
            self.seconds[part] += duration - inside
        elif action_name == "run_training_batch" and self.steps == self.skip_steps + self.trace_steps:
            self._end_trace()

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def _end_trace(self) -> None:
        if self._trace is not None:
            self._trace.stop()
            rank_zero_only(self._trace.export_chrome_trace)(str(self.path))  # one file for the run
            self._trace = None

    def summary(self) -> str:
        """The table's rows as text."""
        return "\n".join(f"{name}: {seconds:.3f} s" for name, seconds in self.seconds.items())

    def table(self) -> Table:
        """Parts, milliseconds per step and share of the time."""
        traced = self.trace_steps if self.path.exists() else 0
        table = Table(title=f"Where the time of {self.steps - traced} steps went", title_justify="left")
        for name in ("part", "ms per step", "share"):
            table.add_column(name, justify="left" if name == "part" else "right")
        total = sum(self.seconds.values())
        for name, seconds in self.seconds.items():
            table.add_row(
                name, f"{1e3 * seconds / max(1, self.steps - traced):.2f}", f"{seconds / total:.1%}" if total else ""
            )
        return table

    def describe(self) -> None:
        """Show the table at the end of training; the time of the test is not in it."""
        self._end_trace()
        if self._stage == "fit":
            reporting.show(self.table())
