"""Names that other CTR libraries and papers use for our options, and how they are written here.

Nothing is accepted under another name, so that a command says what it does. The error has the
command to write.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tf4ctr.experiments.choices import choice_names, read_choice

# by the word without its underscores: what to write; {} is the value
OPTIONS = {
    "model": "backbone={}",
    "modelname": "backbone={}",
    "data": "dataset={}",
    "datasetid": "dataset={}",
    "lr": "optimizer.lr={}",
    "learningrate": "optimizer.lr={}",
    "batchsize": "stream.batch_size={}",
    "epochs": "trainer.max_epochs={}",
    "epoch": "trainer.max_epochs={}",
    "numepochs": "trainer.max_epochs={}",
    "maxepochs": "trainer.max_epochs={}",
    "embeddingdim": "embedding.dim={}",
    "embeddingsize": "embedding.dim={}",
    "embdim": "embedding.dim={}",
    "embeddingregularizer": "embedding.l2={}",
    "l2regembedding": "embedding.l2=LAMBDA, where LAMBDA is {} times 2 / batch size",
    "mincategrcount": "dataset.min_count={}",
    "groupid": "dataset.group={}",
    "evalsteps": "trainer.val_check_interval={}",
    "maxgradientnorm": "trainer.gradient_clip_val={}",
    "netdropout": "dataset.training.dropout={} for all parts, or backbone.complex.dropout={} for one encoder",
    "dnndropout": "dataset.training.dropout={} for all parts, or backbone.complex.dropout={} for one encoder",
    "dnnhiddenunits": "backbone.complex.hidden_units={}",
    "patience": "callbacks.early_stopping.patience={}, which counts validations",
    "earlystoppatience": "callbacks.early_stopping.patience={}, which counts validations",
    "dropout": "dataset.training.dropout={} for all parts, or backbone.complex.dropout={} for one encoder",
    "gpu": "trainer=gpu, 'trainer.devices=[0]' for the first one; trainer=cpu for none",
    "gpus": "trainer=ddp trainer.devices={}; trainer=gpu for one, trainer=cpu for none",
    "device": "trainer=cpu, trainer=gpu, or trainer=ddp for all GPUs",
    "metric": (
        "nothing: AUC, gAUC and logloss are always measured, and AUC + gAUC chooses the best epoch; monitor=auc for"
        " AUC alone, in a search hydra.sweeper.objective=val/auc"
    ),
    "metrics": "nothing: AUC, gAUC and logloss are always measured",
    "workers": "nothing: a thread reads ahead, there are no worker processes",
    "numworkers": "nothing: a thread reads ahead, there are no worker processes",
}
# by the name of a model without its signs: the choice that no published name in its yaml leads to
MODELS = {"wdl": "wide_deep", "pnn": "ipnn", "dcnv3": "fcn"}
# models of histories: a way to embed a history, which goes with any backbone
AS_PUBLISHED = "backbone=dnn sequence={} framework=plain"


def option_hint(name: str, value: str, config: DictConfig) -> str | None:
    """What to write for an option that another library has; None if the word is not known.

    Args:
        name: as written.
        value: as written.
        config: of the entry point; only a training has all options.
    """
    text = OPTIONS.get(_bare(name), "")
    group = text.removesuffix("={}")
    if not text or not ("backbone" in config or group in config):
        return None
    hint = choice_hint(group, value, choice_names(group))
    return f"{name}={value}: " + (hint.partition(": ")[2] if hint else f"write {text.replace('{}', value)}")


def deeper_hint(name: str, value: str, config: DictConfig) -> str | None:
    """The full names of the options that are called `name` further down; None if there are none."""
    node: dict[str, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]
    found = sorted(_keys({key: value for key, value in node.items() if key != "hydra"}, name))
    return f"{name}={value}: write " + " or ".join(f"{key}={value}" for key in found[:3]) if found else None


def choice_hint(group: str, name: str, options: Iterable[str]) -> str | None:
    """The command for a choice that is written in another way; None if nothing fits.

    Case and signs do not count: `Wide&Deep` is `wide_deep`. Published names are those at the
    beginning of the choices' yamls.
    """
    bare = _bare(name)
    if not bare:
        return None
    for option in options:
        if _bare(option) == bare:
            return f"{group}={name}: write {group}={option}"
    if found := _by_published_name(group, bare) or (MODELS.get(bare) if group == "backbone" else None):
        return f"{group}={name}: write {group}={found}"
    if group == "backbone" and (found := _by_published_name("sequence", bare)):
        published = AS_PUBLISHED.format(found)
        return f"{group}={name}: write sequence={found}, with any backbone; as published: {published}"
    return None


def _by_published_name(group: str, bare: str) -> str | None:
    for name in choice_names(group):
        choice = read_choice(group, name)
        if choice and _bare(re.split(r"[,:;(]", choice.title)[0]) == bare:
            return name
    return None


def _keys(node: Mapping[str, Any], name: str, above: str = "") -> Iterator[str]:
    for key, value in node.items():
        if key == name and above:
            yield f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, name, f"{above}{key}.")


def _bare(name: str) -> str:
    """Letters and digits only, in lower case."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
