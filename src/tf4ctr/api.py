"""The Python API: load a finished run or several, or train one, and use it on frames.

`tf4ctr.load`, `tf4ctr.train`, `tf4ctr.TrainedRun` and `tf4ctr.Ensemble` are these; see
docs/python.md.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any, overload

import polars as pl

from tf4ctr import cli
from tf4ctr.assembly import load_run
from tf4ctr.data.encoding import value_names
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.experiments import processes
from tf4ctr.inference.attention import tables
from tf4ctr.inference.findings import shared_findings, unknown_warnings
from tf4ctr.inference.log_rows import measure_frame
from tf4ctr.inference.members import Member, as_member, check_columns, check_different
from tf4ctr.inference.prediction import predict_frame

# pandas is not needed: its frames are known by the name of their module
PANDAS = "pandas"


class TrainedRun:
    """A finished run with its best weights.

    It needs only the run's folder. It works on the CPU.

    Attributes:
        folder: of the run.
        network: the torch module, in evaluation mode. It maps ids [B, W] and scaled numbers [B, N]
            to `Logits`.
        schema: the fields.
        config: the composed config of the run, a `DictConfig`.

    Raises:
        InputError: the folder contains no finished run, or one that this version cannot read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network, self.schema, self.config = load_run(folder)
        self._member = as_member(folder, self.network, self.schema, self.config)

    def __repr__(self) -> str:
        return f"TrainedRun({self.folder.name})"

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """metrics.json of the run.

        Raises:
            InputError: the run was stopped before its test.
        """
        path = self.folder / "metrics.json"
        if not path.exists():
            raise InputError(f"{path} does not exist: the run was stopped before its test; resume it with ckpt=last")
        return json.loads(path.read_text())

    def predict(self, frame: Any, heads: bool = False) -> Any:
        """The probability of a click for each row, as src/predict.py computes it.

        A Python warning names each field whose values are all out of vocabulary, or all missing.

        Args:
            frame: raw rows, a polars or a pandas frame. It needs the raw columns of the fields; the
                label and the histories of the log may be absent.
            heads: whether to add the probability of each head too.

        Returns:
            A float32 series `p` of the frame's kind, a pandas one with the frame's index. With
            `heads` a frame with `p`, `p_simple`, `p_complex`.

        Raises:
            InputError: a column is missing or has a wrong type, or a row is invalid.
        """
        return _predict([self._member], frame, heads)

    def evaluate(self, frame: Any, bootstrap: int = 0, seed: int = 2019) -> dict[str, float]:
        """Metrics on raw rows with labels, those of src/evaluate.py.

        Args:
            frame: as for `predict`, with the raw columns of the label, of the group and of the
                weights, if the dataset has them.
            bootstrap: resamples for the 95 % intervals; 0 for no intervals.
            seed: of the resamples.

        Returns:
            `auc`, `logloss`, `gauc`, `simple/auc`, ..., see `inference.evaluation.measure`.

        Raises:
            InputError: see `predict`; a label or a weight is invalid.
        """
        return measure_frame([self._member], _as_polars(frame), bootstrap, seed)

    def embedding(self, field: str) -> pl.DataFrame:
        """The rows of the embedding table that belong to a field.

        Args:
            field: a field of ids, or a sequence; a field that shares its values has those of the
                other one.

        Returns:
            `value`, the name of the row, and `embedding`, an array of D numbers. The first row is
            the padding `(none)`, the last one is `(out of vocabulary)`. If each encoder has its own
            table (ssem=ser) there is a column for each: `embedding_simple`, `embedding_complex`.

        Raises:
            InputError: the field has no rows of the table, or the run has no table.
        """
        names = [known.name for known in self.schema.id_fields]
        if field not in names:
            raise InputError(
                f"embedding: {self.schema.dataset} has no field of ids '{field}', {did_you_mean(field, names)}"
            )
        if not (of_encoders := tables(self.network)):
            raise InputError(f"embedding: the encoders of {self.folder} read no embeddings")
        first = self.schema.offset_of(field)
        rows = slice(first, first + self.schema[field].vocabulary_size)
        columns = {
            f"embedding_{encoder}" if encoder else "embedding": table.weight.detach()[rows].numpy()
            for encoder, table in of_encoders.items()
        }
        return pl.DataFrame({"value": value_names(self.schema[field], self.folder / "vocabulary"), **columns})


class Ensemble:
    """Several finished runs whose probabilities are averaged: those of other seeds, for example.

    Attributes:
        runs: the runs.

    Raises:
        InputError: there is no run, one is there twice, or they do not read the same raw columns.
    """

    def __init__(self, runs: Sequence[TrainedRun]) -> None:
        if not runs:
            raise InputError("load([]) names no run: expected the folders of one run or more")
        self.runs = list(runs)
        self._members = [run._member for run in runs]
        check_different([run.folder for run in runs])
        check_columns(self._members)

    def __repr__(self) -> str:
        return f"Ensemble({', '.join(run.folder.name for run in self.runs)})"

    def predict(self, frame: Any, heads: bool = False) -> Any:
        """The mean of the runs' probabilities, as src/predict.py computes it.

        Args:
            frame: see `TrainedRun.predict`.
            heads: whether to add the probability of each run too.

        Returns:
            As `TrainedRun.predict` returns it, with `heads` a frame with `p`, `p_run_1`, ...

        Raises:
            InputError: see `TrainedRun.predict`.
        """
        return _predict(self._members, frame, heads)

    def evaluate(self, frame: Any, bootstrap: int = 0, seed: int = 2019) -> dict[str, float]:
        """Metrics on raw rows with labels, those of src/evaluate.py.

        Args:
            frame, bootstrap, seed: see `TrainedRun.evaluate`.

        Returns:
            `auc`, `logloss`, ... of the ensemble, `run_1/auc`, ... of the runs, `gain/auc`, ...;
            see `inference.ensemble_metrics.gains`.

        Raises:
            InputError: see `TrainedRun.evaluate`.
        """
        return measure_frame(self._members, _as_polars(frame), bootstrap, seed)


def _predict(members: Sequence[Member], frame: Any, heads: bool) -> Any:
    scored, result = predict_frame(members, _as_polars(frame), heads)
    for names, findings in shared_findings(result.findings):
        for warning in unknown_warnings(findings):
            warnings.warn(f"{names}: {warning}" if names else warning, stacklevel=3)
    probabilities: Any = scored if heads else scored["p"]
    if not _is_pandas(frame):
        return probabilities
    probabilities = probabilities.to_pandas()
    probabilities.index = frame.index
    return probabilities


@overload
def load(folder: str | Path) -> TrainedRun: ...  # type: ignore[overload-overlap]  # a text is a sequence of texts, too
@overload
def load(folder: Sequence[str | Path]) -> Ensemble: ...
def load(folder: str | Path | Sequence[str | Path]) -> TrainedRun | Ensemble:
    """Load a finished run, `load("outputs/DATE/RUN")`, or several as an ensemble, `load([A, B])`.

    Raises:
        InputError: see `TrainedRun` and `Ensemble`.
    """
    if isinstance(folder, str | Path):
        return TrainedRun(Path(folder).expanduser().absolute())
    return Ensemble([TrainedRun(Path(one).expanduser().absolute()) for one in folder])


def train(overrides: Sequence[str] | Mapping[str, Any] = (), quiet: bool = False) -> TrainedRun:
    """Train and test a model, and load it: `train({"backbone": "dcnv2", "optimizer.lr": 1e-3})`.

    It is `python src/train.py` in a process of its own, so that it does the same as the command
    line: a training sets signals, logging and seeds of its process, and one with several devices
    starts others. An interrupt saves `last.ckpt`; `"ckpt": "last"` goes on from there.

    Args:
        overrides: those of the command line, as texts `KEY=VALUE` or as a mapping.
        quiet: do not print what the training prints; it is in the run's train.log.

    Raises:
        InputError: the training was refused, or an override is one of a sweep.
        RuntimeError: it failed otherwise; the message has the last lines that it printed.
    """
    texts = as_overrides(overrides)
    try:
        folder = processes.folder_for(texts)
    except Exception as error:
        if (message := cli.explain(error)) is None:
            raise
        raise InputError(message) from None
    processes.train_shown(texts, folder, quiet)
    return load(folder)


def as_overrides(overrides: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Overrides as texts of the command line.

    Raises:
        InputError: a single text, or an option such as `-m`.
    """
    if isinstance(overrides, str):
        raise InputError(f"overrides are {overrides!r}: expected a list of texts KEY=VALUE, or a mapping")
    if isinstance(overrides, Mapping):
        return [f"{key}={_text(value)}" for key, value in overrides.items()]
    for override in overrides:
        if override.startswith("-"):
            raise InputError(f"override {override}: train() makes one run; a sweep is python src/train.py -m")
    return list(overrides)


def _text(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Real):  # also numpy's
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_text(item)}' for key, item in value.items())}}}"
    return processes.quoted(str(value))


def _is_pandas(frame: Any) -> bool:
    return type(frame).__module__.partition(".")[0] == PANDAS


def _as_polars(frame: Any) -> pl.DataFrame:
    """A polars or a pandas frame as a polars one; NaN in pandas is a missing value.

    Raises:
        InputError: it is neither, or polars cannot read a column.
    """
    if isinstance(frame, pl.DataFrame):
        return frame
    if not _is_pandas(frame) or not hasattr(frame, "columns"):
        raise InputError(f"frame is a {type(frame).__name__}: expected a polars or a pandas DataFrame")
    try:
        return pl.from_pandas(frame)
    except ImportError:
        raise InputError("polars needs pyarrow to read a pandas frame: pip install pyarrow") from None
    except (TypeError, ValueError) as error:  # also pyarrow's errors
        raise InputError(
            f"frame: polars cannot read it ({error}): give each column a name and values of one type"
        ) from error
