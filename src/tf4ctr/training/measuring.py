"""The metrics of a split in training: AUC, logloss and gAUC, head by head."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from tf4ctr.data.stream import Batch
from tf4ctr.metrics import AUC, GroupedAUC, LogitRows, LogLoss
from tf4ctr.models.calibration import Calibration


class SplitMetrics(nn.Module):
    """AUC and logloss of every head, and gAUC of the fused one, over all batches and ranks.

    Args:
        heads: names of the heads beside `fused`.
        grouped: whether the rows have a group, which gAUC needs.
        weighted: whether the rows count their weights.
        calibrated: whether the fused logits are calibrated: their logloss without it is measured,
            too.
    """

    def __init__(self, heads: Iterable[str], grouped: bool, weighted: bool, calibrated: bool) -> None:
        super().__init__()
        self.weighted = weighted
        metrics: dict[str, Metric] = {}
        for head in ("fused", *heads):
            metrics[f"{head}/auc"] = AUC(weighted)
            metrics[f"{head}/logloss"] = LogLoss()
        if grouped:
            metrics["fused/gauc"] = GroupedAUC(weighted)
        if calibrated:
            metrics["uncalibrated/logloss"] = LogLoss()
        self.metrics = nn.ModuleDict(metrics)
        self.kept = LogitRows(weighted)  # what a calibration is fitted on

    def update(self, logits: Mapping[str, Tensor], batch: Batch, keep: bool = False) -> None:
        """Measure a batch.

        Args:
            logits: of every head, of `fused` and, if they are calibrated, `uncalibrated`, [B] each.
            batch: the rows.
            keep: whether `calibrate` will be called for them.
        """
        weight = [batch.weight] if self.weighted else []
        if keep:
            self.kept.update(logits["fused"], batch.label, *weight)  # type: ignore[arg-type]
        for name, metric in self.metrics.items():
            group = [batch.group] if name == "fused/gauc" else []
            metric.update(logits[name.split("/")[0]], batch.label, *group, *weight)  # type: ignore[operator]

    def calibrate(self, calibration: Calibration) -> bool:
        """Fit the calibration on the rows that were kept; measure their logloss after it.

        Returns:
            whether it could be fitted, see `Calibration.fit`.
        """
        kept = self.kept.compute()
        self.kept.reset()
        rows = kept.pop("rows", None)
        # torchmetrics makes a scalar of one row
        columns = {name: torch.atleast_1d(column_B) for name, column_B in kept.items()}
        fitted = calibration.fit(**columns, rows=rows)
        logloss: LogLoss = self.metrics["fused/logloss"]  # type: ignore[assignment]
        logloss.reset()
        logloss.update(calibration(columns.pop("logit_B")), *columns.values())
        return fitted

    @property
    def names(self) -> list[str]:
        """The names of `results`, in the order of `metrics`.

        They are `auc`, `logloss`, `gauc` and `uncalibrated_logloss` for the fused logit, and
        `HEAD/auc` and `HEAD/logloss` for the heads.
        """
        return [name.removeprefix("fused/").replace("uncalibrated/", "uncalibrated_") for name in self.metrics]

    def results(self) -> dict[str, float]:
        """The metrics of all rows since the last call, by `names`; NaN if undefined."""
        results = {}
        for name, metric in zip(self.names, self.metrics.values(), strict=True):
            results[name] = float(metric.compute())  # type: ignore[operator]
            metric.reset()  # type: ignore[operator]
        return results
