"""STAGE/monitor, the number that chooses the best epoch, and messages about undefined metrics."""

import math
from collections.abc import Iterable, Mapping

from lightning.pytorch.callbacks import Callback

from tf4ctr.errors import InputError, did_you_mean

# the option `monitor`: what STAGE/monitor is the sum of; with none it is -logloss
MONITORS = {"auc+gauc": ("auc", "gauc"), "auc": ("auc",), "gauc": ("gauc",), "logloss": ()}
SPLIT = {"val": "validation", "test": "test"}


def check_monitor(monitor: str, has_group: bool) -> None:
    """Check the option `monitor`.

    Raises:
        InputError: it is unknown, or gAUC alone of a dataset without a group.
    """
    if monitor not in MONITORS:
        raise InputError(f"monitor is {monitor}: {did_you_mean(str(monitor), MONITORS)}")
    if monitor == "gauc" and not has_group:
        raise InputError("monitor=gauc needs groups, and the dataset has none: set dataset.group, or monitor=auc")


def monitor_of(results: Mapping[str, float], stage: str, monitor: str) -> float:
    """The sum of the metrics of `monitor` that are defined; -logloss if there are none.

    AUC and gAUC are undefined because of a split's labels, so the choice is the same in all epochs.

    Args:
        results: metrics of an evaluation as in metrics.json; NaN if undefined.
        stage: val or test.
        monitor: one of `MONITORS`.
    """
    defined = _defined(results, stage, monitor)
    return sum(defined.values()) if defined else -results[f"{stage}/logloss"]


def _defined(results: Mapping[str, float], stage: str, monitor: str) -> dict[str, float]:
    values = {name: results.get(name, math.nan) for name in (f"{stage}/{part}" for part in MONITORS[monitor])}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def undefined_metrics(results: Mapping[str, float]) -> list[str]:
    """Names of the AUCs and gAUCs, of any head, that are undefined."""
    return [name for name, value in results.items() if name.endswith("auc") and math.isnan(value)]


def explain_undefined(results: Mapping[str, float], stage: str) -> str:
    """Which metrics of the fused head are undefined, and why."""
    names = [name for name in undefined_metrics(results) if name.count("/") == 1]
    if math.isnan(results.get(f"{stage}/logloss", 0.0)):
        why = f"the network gives NaN for rows of the {SPLIT[stage]} split"
    elif f"{stage}/auc" in names:
        why = f"all rows of the {SPLIT[stage]} split have the same label"
    else:
        why = f"no group of the {SPLIT[stage]} split has rows of both labels"
    return f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} undefined: {why}"


def explain_monitor(results: Mapping[str, float], monitor: str) -> str:
    """Which metrics are undefined, and what val/monitor is if it needs one of them."""
    why = explain_undefined(results, "val")
    if not {f"val/{part}" for part in MONITORS[monitor]} & {*undefined_metrics(results)}:
        return why
    instead = " + ".join(_defined(results, "val", monitor)) or "-val/logloss"
    return f"{why}. val/monitor, which chooses the best epoch, is {instead} instead of {monitor}"


def check_monitors(callbacks: Iterable[Callback], results: Mapping[str, float]) -> None:
    """Check that no callback monitors an undefined metric.

    Raises:
        InputError: names the callback and the metric.
    """
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if monitor in undefined_metrics(results):
            raise InputError(
                f"{type(callback).__name__} monitors {monitor}, but {explain_undefined(results, 'val')}. Let it monitor"
                " val/monitor, which is defined (in a search: hydra.sweeper.objective=val/monitor)"
            )
