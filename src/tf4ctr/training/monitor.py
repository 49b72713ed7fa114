"""STAGE/monitor, the number that chooses the best epoch, and messages about undefined metrics."""

import math
from collections.abc import Iterable, Mapping

from lightning.pytorch.callbacks import Callback

from tf4ctr.errors import InputError

SPLIT = {"val": "validation", "test": "test"}


def monitor_of(results: Mapping[str, float], stage: str) -> float:
    """AUC + gAUC; AUC alone without a group or if gAUC is undefined; -logloss if AUC is undefined.

    AUC and gAUC are undefined because of a split's labels, so the choice is the same in all epochs.

    Args:
        results: metrics of an evaluation as in metrics.json; NaN if undefined.
        stage: val or test.
    """
    auc, gauc = results[f"{stage}/auc"], results.get(f"{stage}/gauc", 0.0)
    if math.isnan(auc):
        return -results[f"{stage}/logloss"]
    return auc if math.isnan(gauc) else auc + gauc


def undefined_metrics(results: Mapping[str, float]) -> list[str]:
    """Names of the AUCs and gAUCs, of any head, that are undefined."""
    return [name for name, value in results.items() if name.endswith("auc") and math.isnan(value)]


def explain_undefined(results: Mapping[str, float], stage: str) -> str:
    """Which metrics of the fused head are undefined, and why."""
    names = [name for name in undefined_metrics(results) if name.count("/") == 1]
    if f"{stage}/auc" in names:
        why = f"all rows of the {SPLIT[stage]} split have the same label"
    else:
        why = f"no group of the {SPLIT[stage]} split has rows of both labels"
    return f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} undefined: {why}"


def explain_monitor(results: Mapping[str, float]) -> str:
    """What val/monitor is if a metric that it needs is undefined."""
    instead = "-val/logloss" if math.isnan(results["val/auc"]) else "val/auc alone"
    return f"{explain_undefined(results, 'val')}. val/monitor, which chooses the best epoch, is {instead}"


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
