"""CTRModule: the only place where network, loss, optimiser and metrics meet."""

import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from tf4ctr import __version__
from tf4ctr.data.schema import Schema
from tf4ctr.data.stream import Batch, Stream
from tf4ctr.errors import InputError
from tf4ctr.models.calibration import Calibration
from tf4ctr.models.losses import HeadsLoss
from tf4ctr.models.network import Network
from tf4ctr.training.checkpoints import (
    adapt_callbacks,
    load_network,
    of_all_ranks,
    own_of,
    random_state,
    saved_random_state,
    seed_rank,
    set_random_state,
)
from tf4ctr.training.finite import first_not_finite
from tf4ctr.training.measuring import SplitMetrics
from tf4ctr.training.monitor import (
    check_monitor,
    check_monitors,
    explain_monitor,
    explain_undefined,
    monitor_of,
    undefined_metrics,
)
from tf4ctr.training.optim import NOT_ROWWISE, RowwiseAdam, clip_grad_norm
from tf4ctr.training.schedule import epochs_trained
from tf4ctr.training.table_files import SavedTables, load_tables, remove_unnamed, save_tables

log = logging.getLogger(__name__)


class CTRModule(LightningModule):
    """Trains a `Network` on `Batch`es and measures it, head by head.

    Logged at every validation: `train/loss` and each term of the loss, averaged over the rows since
    the validation before, and `epoch`, the epochs trained so far (0.25 after a quarter of the first
    one). An epoch without validation logs them at its end. The L2 on the tables is part of the
    optimiser and not of these terms.

    Logged per evaluation, with STAGE val or test: `STAGE/auc`, `STAGE/logloss`, `STAGE/gauc` if the
    dataset names a group, and AUC and logloss of the heads (if there are several) as
    `STAGE/simple/...`, `STAGE/complex/...`. AUC is undefined if all labels of the split are equal,
    gAUC if no group has both labels. An undefined metric is NaN in `results` and is not logged; one
    warning says why.

    A calibrated network has its logloss after the calibration as `STAGE/logloss`, and before it as
    `STAGE/uncalibrated_logloss`. Each validation of a training fits the calibration anew, before
    the checkpoints are written.

    `STAGE/monitor` chooses the best epoch and is always a number, see monitor.py.

    The module also keeps where a run stands: the position in the stream and the random state of
    each rank go into every checkpoint.

    Args:
        schema: of the dataset; it is saved in the checkpoint.
        network: ids and numbers -> Logits.
        loss: (Logits, label, weight) -> named terms, `loss` among them; see losses.py.
        optimizer: builds the optimiser from parameter groups.
        embedding_l2: lambda of (lambda / 2) * ||table||^2 over every embedding table. Its gradient
            is lambda * table: Adam's coupled weight decay on these parameters, without a pass of
            autograd over the table.
        compiled: network and loss of a training step run as one graph of `torch.compile`, built at
            the first step of each batch size.
        weighted_metrics: rows count their weight in the metrics, too, not only in the loss.
        encoder_l2: lambda by the encoder's name, for the tables that this encoder reads alone.
        monitor: what chooses the best epoch, one of `MONITORS`.

    Raises:
        InputError: an option is invalid or does not fit the network.
    """

    def __init__(
        self,
        schema: Schema,
        network: Network,
        loss: nn.Module,
        optimizer: Callable[..., Optimizer],
        embedding_l2: float = 0.0,
        compiled: bool = False,
        weighted_metrics: bool = False,
        encoder_l2: Mapping[str, float] = MappingProxyType({}),
        monitor: str = "auc+gauc",
    ) -> None:
        super().__init__()
        lambdas = {"embedding.l2": embedding_l2}
        lambdas |= {f"backbone.{name}.embedding_l2": value for name, value in encoder_l2.items()}
        for name, value in lambdas.items():
            if not value >= 0:
                raise InputError(f"{name} is {value}: it must not be negative")
        check_monitor(monitor, bool(schema.group))
        if isinstance(loss, HeadsLoss):
            loss.check_heads(len(network.encoders))
        self.schema, self.network, self.loss = schema, network, loss
        self.make_optimizer, self.embedding_l2, self.encoder_l2 = optimizer, embedding_l2, dict(encoder_l2)
        self.monitor = monitor
        measured = network.heads, bool(schema.group), weighted_metrics, network.calibration is not None
        self.metrics = nn.ModuleDict({stage: SplitMetrics(*measured) for stage in ("val", "test")})
        self.results: dict[str, float] = {}  # of the latest evaluation, in full precision (the trainer's are float32)
        self.train_terms: dict[str, Tensor] = {}  # since they were last logged, summed over rows
        self._train_rows = 0
        self._validated = False  # whether this epoch has had a validation
        self._saved: SavedTables | None = None  # sharded tables of the latest checkpoint
        self._random_state: dict[str, Any] | None = None  # of the checkpoint, until training starts
        self._warned: set[str] = set()  # stages whose undefined metrics were reported
        self._terms: Callable[..., dict[str, Tensor]] = self._terms_of
        _check_compiled(compiled, network)
        if compiled:
            torch.compiler.reset()  # graphs of earlier runs in this process count against a limit
            # fallback_random: the dropout masks of the plain step; inductor's own are slow on a CPU
            self._terms = torch.compile(
                self._terms_of, fullgraph=True, dynamic=False, options={"fallback_random": True}
            )

    def _terms_of(
        self, ids_BW: Tensor, label_B: Tensor, numbers_BN: Tensor | None = None, weight_B: Tensor | None = None
    ) -> dict[str, Tensor]:
        passes = [self.network(ids_BW, numbers_BN) for _ in range(getattr(self.loss, "passes", 1))]
        terms = self.loss(*passes, label_B, weight_B)
        auxiliary = self.network.auxiliary()  # of the last pass
        if auxiliary is not None:
            terms = {**terms, "loss": terms["loss"] + auxiliary, "auxiliary": auxiliary}
        return terms

    def configure_model(self) -> None:
        """Connect the tables of the ranks; Lightning calls it when the ranks are connected."""
        self.network.place_tables(draw=self.trainer.ckpt_path is None)
        if self.trainer.world_size == 1:
            return
        if self._sharded() and self.trainer.state.fn == "fit":
            self._checkpoint_folder()  # raises if there are several
        # DistributedDataParallel must not synchronise these: they do it themselves
        ignored = {id(table.weight) for table in self.network.embeddings() if table.sparse}
        if ignored and not hasattr(self, "_ddp_params_and_buffers_to_ignore"):
            for table in self.network.embeddings():
                if table.shards is None:
                    table.replicate()
            self._ddp_params_and_buffers_to_ignore = [
                name for name, parameter in self.named_parameters() if id(parameter) in ignored
            ]

    def on_fit_start(self) -> None:
        self._saved = None
        for table in self.network.embeddings() if self.trainer.world_size > 1 else ():
            if table.sparse and table.shards is None:  # DistributedDataParallel has done it for dense ones
                distributed.broadcast(table.weight.detach(), 0)

    def on_fit_end(self) -> None:
        if self._saved is not None and self.trainer.is_global_zero:
            remove_unnamed(self._checkpoint_folder(), self._saved)

    def _sharded(self) -> list[nn.Parameter]:
        """The tables of which this rank has a part of the rows."""
        return [table.weight for table in self.network.embeddings() if table.shards is not None]

    def _checkpoint_folder(self) -> Path:
        """The folder of all checkpoints: the tables are beside them.

        Raises:
            InputError: the callbacks write into several folders, or there is none.
        """
        folders = {Path(callback.dirpath).absolute() for callback in self.trainer.checkpoint_callbacks}  # type: ignore[attr-defined]
        if len(folders) != 1:
            raise InputError(
                "embedding=sharded writes its tables beside the checkpoints, and the callbacks have the folders"
                f" {sorted(map(str, folders))}: give every checkpoint callback the same dirpath"
            )
        return folders.pop()

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """The optimiser's parameter groups; the checkpoint numbers the parameters in this order."""
        by_lambda: dict[float, list[nn.Parameter]] = {}
        for table, encoder in zip(self.network.tables(), self.network.readers(), strict=True):
            by_lambda.setdefault(self.encoder_l2.get(encoder or "", self.embedding_l2), []).append(table)
        under_l2 = {id(table) for tables in by_lambda.values() for table in tables}
        others = [parameter for parameter in self.network.parameters() if id(parameter) not in under_l2]
        groups = [{"params": tables, "weight_decay": l2} for l2, tables in by_lambda.items()]
        return [*groups, {"params": others, "weight_decay": 0.0}]

    def configure_optimizers(self) -> Optimizer:
        """Build the optimiser.

        Raises:
            InputError: an option is unknown to it or invalid, or does not work for single rows,
                or the optimiser does not.
        """
        try:
            optimizer = self.make_optimizer(self._parameter_groups())
        except (TypeError, ValueError) as error:
            raise InputError(f"the optimizer's options do not fit: {error}") from error
        if any(table.sparse for table in self.network.embeddings()):
            if not isinstance(optimizer, RowwiseAdam):
                raise InputError(
                    f"optimizer._target_ is {type(optimizer).__name__}: embedding=rowwise and embedding=sharded need"
                    " optimizer=adam. Use embedding=dense with another one"
                )
            for name in NOT_ROWWISE:
                if optimizer.defaults.get(name):
                    raise InputError(f"optimizer.{name} does not work with embedding=rowwise: turn one of them off")
        return optimizer

    def bytes_to_come(self) -> int:
        """Memory on this rank's device that gradients and moments will take, in bytes.

        Gradients of rowwise tables have the batch's rows only and do not count. A run that resumes
        has its moments already.
        """
        rowwise = {id(table.weight) for table in self.network.embeddings() if table.sparse}
        total = sum(weight.nbytes * (2 if id(weight) in rowwise else 3) for weight in self.parameters())
        states = (state for optimizer in self.trainer.optimizers for state in optimizer.state.values())
        return total - sum(part.nbytes for state in states for part in state.values() if isinstance(part, Tensor))

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        if gradient_clip_val:  # 0 is no clipping, as in Lightning
            clip_grad_norm(self.parameters(), gradient_clip_val, self._sharded())

    def on_train_start(self) -> None:
        if self._random_state is not None:
            set_random_state(self._random_state)
            self._random_state = None
        else:  # Lightning has seeded all ranks alike
            seed_rank(self.trainer.global_rank, self.trainer.global_step)
        # a run that was killed after it had decided to stop (say in the test) trains no further
        self.trainer.should_stop = any(
            stopper.wait_count >= max(1, stopper.patience) for stopper in self.trainer.early_stopping_callbacks
        )

    def on_train_epoch_start(self) -> None:
        self._stream.start_epoch(self.trainer.current_epoch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # at the start, as callbacks save in on_train_batch_end, which runs before the module's
        self._stream.position = batch_idx + 1

    @property
    def _stream(self) -> Stream:
        return self.trainer.train_dataloader  # type: ignore[return-value]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        terms = self._terms(batch.ids, batch.label, batch.numbers, batch.weight)
        rows = len(batch.label)
        for name, term in terms.items():
            self.train_terms[name] = self.train_terms.get(name, 0.0) + term.detach() * rows
        self._train_rows += rows
        # without prog_bar=True, with which Lightning reads it from the device in every step
        self.log("step/loss", terms["loss"], batch_size=rows)
        return terms["loss"]

    def on_train_epoch_end(self) -> None:
        if not self._validated:  # else what is left belongs to the next validation
            self._log_train_terms()
        self._validated = False

    def _log_train_terms(self) -> None:
        if self._train_rows:
            self.log_dict(
                {f"train/{name}": total / self._train_rows for name, total in self.train_terms.items()}, sync_dist=True
            )
        self.log("epoch", float(epochs_trained(self.trainer)))  # instead of Lightning's, the number of whole epochs
        self.train_terms, self._train_rows = {}, 0

    def on_validation_start(self) -> None:
        # ranks have their own batch norm statistics; only a training step copies those of rank 0
        if self.trainer.world_size > 1:
            for buffer in self.network.buffers():
                distributed.broadcast(buffer, 0)

    @property
    def _calibration_to_fit(self) -> Calibration | None:
        """The calibration, if this is a validation that fits it at its end."""
        return self.network.calibration if self.trainer.state.fn == "fit" else None

    def on_validation_epoch_start(self) -> None:
        if self._calibration_to_fit:
            self._calibration_to_fit.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return self._update("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._update("test", batch)

    def on_validation_epoch_end(self) -> None:
        calibration = self._calibration_to_fit
        if calibration and not self._metrics("val").calibrate(calibration):
            self._warn_uncalibrated()
        self._log_metrics("val")
        if self.trainer.training or self.trainer.state.fn == "fit":
            self.log("lr", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._log_train_terms()
            self._validated = True

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _metrics(self, stage: str) -> SplitMetrics:
        return self.metrics[stage]  # type: ignore[return-value]

    def _update(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """Measure a batch; return the logits of every head."""
        logits = self.network(batch.ids, batch.numbers)
        of_head = self.network.by_head(logits)
        calibration = self.network.calibration
        without = {"uncalibrated": calibration.undo(logits.fused)} if calibration else {}
        self._metrics(stage).update({**of_head, **without}, batch, keep=self._calibration_to_fit is not None)
        return of_head

    def _warn_uncalibrated(self) -> None:
        if not self.trainer.sanity_checking and self.trainer.is_global_zero:
            log.warning(
                "not calibrated: the rows of this validation have one label only, or no positive scale of the logits"
                " lowers their logloss"
            )

    def _log_metrics(self, stage: str) -> None:
        self.results = {f"{stage}/{name}": value for name, value in self._metrics(stage).results().items()}
        self.results[f"{stage}/monitor"] = monitor_of(self.results, stage, self.monitor)
        if not self.trainer.sanity_checking:
            self._check_results(stage)
        shown = {f"{stage}/auc", f"{stage}/gauc"}
        for name, value in self.results.items():
            if not math.isnan(value):
                self.log(name, value, prog_bar=name in shown)

    def _check_results(self, stage: str) -> None:
        """Warn of undefined metrics, once per split.

        Raises:
            InputError: training diverged, or a callback monitors an undefined metric.
        """
        if self.trainer.state.fn == "fit" and not math.isfinite(logloss := self.results["val/logloss"]):
            raise InputError(
                f"training diverged: the validation logloss is {logloss} after epoch {epochs_trained(self.trainer)}."
                " Try a smaller optimizer.lr"
            )
        if not undefined_metrics(self.results) or stage in self._warned:
            return
        self._warned.add(stage)
        if self.trainer.is_global_zero:
            validates = stage == "val"
            log.warning(
                explain_monitor(self.results, self.monitor) if validates else explain_undefined(self.results, stage)
            )
        if stage == "val":
            check_monitors(self.trainer.callbacks, self.results)  # type: ignore[attr-defined]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Complete a checkpoint: the schema, and what training needs to resume from it.

        Raises:
            InputError: training diverged. A checkpoint never contains NaN or infinite weights.
        """
        self._check_finite()
        checkpoint["tf4ctr"] = __version__
        checkpoint["schema"] = self.schema.to_dict()
        if "optimizer_states" in checkpoint:
            checkpoint["random_states"] = of_all_ranks(random_state())  # each rank draws its own dropout
            checkpoint["train_terms"] = of_all_ranks({name: float(total) for name, total in self.train_terms.items()})
            checkpoint["train_rows"] = self._train_rows
            checkpoint["validated"] = self._validated
        if self._sharded():
            self._saved = save_tables(
                self._checkpoint_folder(), self.network, checkpoint, self.trainer.global_step, self._saved
            )

    def _check_finite(self) -> None:
        """Check the weights and this epoch's losses of all ranks, so that all ranks raise together.

        The losses alone are not enough: a NaN gradient of a finite loss makes the weights NaN.
        """
        found = [name for name in of_all_ranks(first_not_finite(self.network, self.train_terms)) if name]
        if found:
            raise InputError(
                f"training diverged before step {self.trainer.global_step + 1}, epoch {self.trainer.current_epoch + 1};"
                f" the first tensor with NaN or infinite values: {found[0]}. The checkpoint is not written."
                " Try a smaller optimizer.lr"
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check and distribute what a checkpoint contains, before Lightning loads it.

        Raises:
            InputError: weights of another network, tables that are missing, or a later epoch than
                trainer.max_epochs, or training is to resume from weights only.
        """
        moments = self.trainer.state.fn == "fit"
        if moments and "optimizer_states" not in checkpoint:
            raise InputError(
                f"{self.trainer.ckpt_path} contains weights only, as best.ckpt does: training cannot resume from it."
                " Use last.ckpt of its folder, or ckpt=last. A run without last.ckpt resumes from best.ckpt if it was"
                " started with callbacks.checkpoint_best.save_weights_only=false"
            )
        load_tables(Path(self.trainer.ckpt_path), self.network, checkpoint, moments)  # type: ignore[arg-type]
        load_network(self.network, checkpoint)
        self._check_epoch(checkpoint["epoch"])
        self._check_rows(Schema.from_dict(checkpoint["schema"]))
        adapt_callbacks(self.trainer, checkpoint)
        self._random_state = saved_random_state(checkpoint)
        ranks = checkpoint.get("train_terms", [{}])  # one dict in checkpoints of version 0.1.0
        terms = own_of(ranks if isinstance(ranks, list) else [ranks])
        self.train_terms = {name: torch.tensor(total, device=self.device) for name, total in terms.items()}
        self._train_rows = checkpoint.get("train_rows", 0)
        # earlier code logged an epoch's terms after its validation: they are still to be logged
        self._validated = checkpoint.get("validated", False)

    def _check_rows(self, schema: Schema) -> None:
        if not schema.has_rows_of(self.schema):
            raise InputError(
                f"{self.trainer.ckpt_path} was trained on other rows than the prepared dataset has now: ckpt=FILE goes"
                " on with the same data. init=RUN begins a new run from the weights of a run, on other data"
            )

    def _check_epoch(self, epochs: int) -> None:
        most = self.trainer.max_epochs
        if self.trainer.state.fn == "fit" and most is not None and 0 <= most < epochs:
            raise InputError(
                f"the checkpoint was written after {epochs} epochs, and trainer.max_epochs is {most}: raise it"
            )


def _check_compiled(compiled: Any, network: Network) -> None:
    if not isinstance(compiled, bool):
        raise InputError(f"trainer.compile is {compiled}: expected true or false")
    if not compiled:
        return
    if any(table.sparse or table.sharded for table in network.embeddings()):
        raise InputError("trainer.compile=true needs embedding=dense: sparse and sharded tables do not compile")
    compilers = os.environ.get("CXX", "g++"), "clang++"
    if not torch.accelerator.is_available() and not any(map(shutil.which, compilers)):
        raise InputError(
            "trainer.compile=true needs a C++ compiler on a CPU, and neither g++ nor clang++ is installed:"
            " install one, or use trainer.compile=false"
        )
