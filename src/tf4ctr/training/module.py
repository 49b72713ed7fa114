"""CTRModule: the only place where network, loss, optimiser and metrics meet."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning import LightningModule
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torchmetrics import Metric

from tf4ctr import __version__
from tf4ctr.data.schema import Schema
from tf4ctr.data.stream import Batch
from tf4ctr.metrics import AUC, GroupedAUC, LogLoss
from tf4ctr.models.network import Network
from tf4ctr.training.checkpoints import load_network, of_all_ranks, own_of
from tf4ctr.training.optim import clip_grad_norm


def _spread(values: dict[str, Any], names: Sequence[str], like: Tensor) -> None:
    """Spread whole tensors of these names over the ranks as `like` is, where it is."""
    for name in names:
        if isinstance(like, DTensor) and name in values:
            values[name] = distribute_tensor(values[name], like.device_mesh, like.placements, src_data_rank=None)


class CTRModule(LightningModule):
    """Trains a `Network` on `Batch`es and measures it, head by head.

    Logged a training epoch: `train/loss` and each term of the loss, averaged over rows (the L2 on the tables is the optimiser's
    and not in them). Logged an evaluation, with STAGE val or test: `STAGE/auc`, `STAGE/logloss`, `STAGE/gauc` where the dataset
    names a group, AUC and logloss of the heads (where there are several) as `STAGE/simple/...`, `STAGE/complex/...`, and
    `STAGE/monitor` = AUC + gAUC (AUC without a group), by which the best epoch is chosen.

    Args:
        schema: of the dataset; goes into the checkpoint.
        network: ids -> Logits.
        loss: (Logits, label) -> named terms, `loss` among them.
        optimizer: makes the optimiser from parameter groups.
        embedding_l2: lambda of (lambda / 2) * ||table||^2 over every embedding table. Its gradient is lambda * table: Adam's coupled
            weight decay on these parameters, without a pass of autograd over the table.
        compiled: network and loss of a training step run as one graph of `torch.compile`, made at the first step of each batch size.
    """

    def __init__(
        self,
        schema: Schema,
        network: Network,
        loss: nn.Module,
        optimizer: Callable[..., Optimizer],
        embedding_l2: float = 0.0,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.schema, self.network, self.loss = schema, network, loss
        self.make_optimizer, self.embedding_l2 = optimizer, embedding_l2
        self.metrics = nn.ModuleDict({stage: self._make_metrics() for stage in ("val", "test")})
        self.results: dict[
            str, float
        ] = {}  # the latest evaluation's metrics, in full precision (the trainer's are float32)
        self.train_terms: dict[str, Tensor] = {}  # of this epoch, summed over rows
        self._train_rows = 0
        self._terms: Callable[[Tensor, Tensor], dict[str, Tensor]] = self._terms_of
        if compiled:
            torch.compiler.reset()  # what another run of this process has compiled counts against a limit
            # random numbers as without compiling: the same masks from the same seed, and inductor's own are slow on a CPU
            self._terms = torch.compile(
                self._terms_of, fullgraph=True, dynamic=False, options={"fallback_random": True}
            )

    def _terms_of(self, ids_BW: Tensor, label_B: Tensor) -> dict[str, Tensor]:
        return self.loss(self.network(ids_BW), label_B)

    def _make_metrics(self) -> nn.ModuleDict:
        metrics: dict[str, Metric] = {}
        for head in ("fused", *self.network.heads):
            metrics[f"{head}/auc"], metrics[f"{head}/logloss"] = AUC(), LogLoss()
        if self.schema.group:
            metrics["fused/gauc"] = GroupedAUC()
        return nn.ModuleDict(metrics)

    def configure_model(self) -> None:
        """Spread sharded tables over the ranks; Lightning calls it when these can talk to each other."""
        if self.trainer.world_size == 1:
            return
        tables = [each for each in self.network.embeddings() if each.sharded and not isinstance(each.weight, DTensor)]
        if tables:
            mesh = init_device_mesh(self.trainer.strategy.root_device.type, (self.trainer.world_size,))
            for each in tables:
                each.shard(mesh)
            # DistributedDataParallel leaves these to the tables
            self._ddp_params_and_buffers_to_ignore = [
                name for name, each in self.named_parameters() if isinstance(each, DTensor)
            ]

    def configure_optimizers(self) -> Optimizer:
        tables = list(self.network.tables())
        under_l2 = {id(table) for table in tables}
        others = [parameter for parameter in self.network.parameters() if id(parameter) not in under_l2]
        return self.make_optimizer(
            [{"params": tables, "weight_decay": self.embedding_l2}, {"params": others, "weight_decay": 0.0}]
        )

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        if self.trainer.precision == "16-mixed":  # gradients are scaled: Lightning knows whether they can be clipped
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val is not None:
            clip_grad_norm(self.parameters(), gradient_clip_val)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        terms = self._terms(batch.ids, batch.label)
        rows = len(batch.label)
        for name, term in terms.items():
            self.train_terms[name] = self.train_terms.get(name, 0.0) + term.detach() * rows
        self._train_rows += rows
        self.log("step/loss", terms["loss"], prog_bar=True, batch_size=rows)
        return terms["loss"]

    def on_train_epoch_end(self) -> None:
        if self._train_rows:
            self.log_dict(
                {f"train/{name}": total / self._train_rows for name, total in self.train_terms.items()}, sync_dist=True
            )
        self.train_terms, self._train_rows = {}, 0

    def on_validation_start(self) -> None:
        if (
            self.trainer.world_size > 1
        ):  # ranks have seen other rows, and only a training step takes rank 0's batch norm statistics to all
            for buffer in self.network.buffers():
                distributed.broadcast(buffer, 0)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return self._update("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._update("test", batch)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")
        if self.trainer.training or self.trainer.state.fn == "fit":
            self.log("lr", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _update(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """Measure a batch; return the logits of every head."""
        logits = self.network(batch.ids)
        of_head = {"fused": logits.fused, **(logits.heads() if self.network.heads else {})}
        for name, metric in self.metrics[stage].items():  # type: ignore[operator]
            logit_B = of_head[name.split("/")[0]]
            metric.update(logit_B, batch.label, batch.group) if name == "fused/gauc" else metric.update(
                logit_B, batch.label
            )
        return of_head

    def _log_metrics(self, stage: str) -> None:
        self.results = {}
        for name, metric in self.metrics[stage].items():  # type: ignore[operator]
            self.results[f"{stage}/{name.removeprefix('fused/')}"] = float(metric.compute())
            metric.reset()
        self.results[f"{stage}/monitor"] = self.results[f"{stage}/auc"] + self.results.get(f"{stage}/gauc", 0.0)
        shown = {f"{stage}/auc", f"{stage}/gauc"}
        for name, value in self.results.items():
            self.log(name, value, prog_bar=name in shown)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["tf4ctr"] = __version__
        checkpoint["schema"] = self.schema.to_dict()
        checkpoint["train_terms"] = of_all_ranks({name: float(total) for name, total in self.train_terms.items()})
        checkpoint["train_rows"] = self._train_rows
        for key in ("state_dict", "optimizer_states"):  # whole tables: they fit any number of ranks, and prediction
            if key in checkpoint:
                checkpoint[key] = apply_to_collection(
                    checkpoint[key], DTensor, lambda spread: spread.full_tensor().cpu()
                )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name, parameter in self.named_parameters():
            _spread(checkpoint["state_dict"], [name], parameter)
        for states in checkpoint.get("optimizer_states", []):
            for number, table in enumerate(self.network.tables()):  # the first of the optimiser's parameters
                _spread(states["state"].get(number, {}), ["exp_avg", "exp_avg_sq"], table)
        load_network(self.network, checkpoint)  # tells what does not fit before Lightning meets it
        terms = own_of(checkpoint.get("train_terms", [{}]))
        self.train_terms = {name: torch.tensor(total, device=self.device) for name, total in terms.items()}
        self._train_rows = checkpoint.get("train_rows", 0)
