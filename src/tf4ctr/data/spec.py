"""The description of a dataset in conf/dataset/NAME.yaml, checked before any data is read."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from tf4ctr.data.fields import LABEL_CONDITION, FieldSpec
from tf4ctr.data.growth import Base
from tf4ctr.data.numbers import Distribution
from tf4ctr.data.raw_files import RawFiles
from tf4ctr.data.readers import READERS
from tf4ctr.data.schema import IDS, NUMBERS, SEQUENCES, Field, Scaling, Schema
from tf4ctr.data.splits import ALL, SPLITS, SplitSpec, raw_texts
from tf4ctr.errors import InputError, check_whole, did_you_mean

LABELS = {"0": 0.0, "0.0": 0.0, "false": 0.0, "1": 1.0, "1.0": 1.0, "true": 1.0}  # its values there
COMPARISON = re.compile(r"(>=|>|<=|<|==|!=)\s*(-?\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class DatasetSpec:
    """One raw dataset and how to prepare it.

    Attributes:
        name: the dataset's name.
        raw_dir: folder of the raw files.
        prepared_dir: folder that preparation writes.
        fields: what becomes ids, numbers and vectors, in order. In yaml, `histories` adds the
            fields that are made of the log itself.
        label: column of clicks: 0 and 1, or true and false; see `positive`.
        positive: what makes a click of another column: a comparison with a number, as in ">= 4",
            or a list of its texts. None for a column of clicks. In yaml both are set by
            `label: {column: rating, positive: ">= 4"}`.
        weight: column of the rows' weights in the loss; None for equal ones. They are divided by
            their mean over the training rows.
        weighted_metrics: whether the weights count in the metrics, too.
        group: column that gAUC groups by; None for no gAUC.
        min_count: how often a value must occur in the training rows to get a table row of its own;
            in a list each time counts, also beyond the list's width.
        limit_rows: take only the first rows of each split (of the whole, if the raw files have no
            splits); None for all.
        layouts: raw forms; the first whose files are all there is taken. A layout names a
            `reader`, its options, and the files of `train`, `valid` and `test`, or `all` for files
            without splits, which are split 8:1:1. Names may have wildcards.
        split_seed: of that split.
        split: splits such files by a column instead, see `SplitSpec`; None for the hash.
        null_values: texts that mean a missing value, in every column.
        rows: rows that each split must have; None if not known.
        source: where to get the raw files; shown when they are missing.
        download: what `download=true` fetches, see `download.fetch`; None if that is not possible.
        generator: arguments of `synthetic.generate` for a dataset that is drawn, not read.
        click_probability: raw column with the true click probability (drawn datasets), which gives
            the best possible AUC.
        base: the run from which vocabulary and scaling grow (`init=` of a training, no option of
            the yaml); None for a dataset that stands alone.
    """

    name: str
    prepared_dir: Path
    fields: tuple[FieldSpec, ...]
    label: str
    layouts: tuple[Mapping[str, Any], ...]
    raw_dir: Path | None = None
    group: str | None = None
    positive: str | tuple[str, ...] | None = None
    weight: str | None = None
    weighted_metrics: bool = False
    split: SplitSpec | None = None
    null_values: tuple[str, ...] = ()
    min_count: int = 1
    limit_rows: int | None = None
    split_seed: int = 0
    rows: Mapping[str, int] | None = None
    source: str = ""
    download: Mapping[str, Any] | None = None
    generator: Mapping[str, Any] | None = None
    click_probability: str | None = None
    base: Base | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "DatasetSpec":
        """Build from the resolved `dataset` node of a config.

        Its `training` node has defaults for other groups and is ignored here.

        Raises:
            InputError: an unknown or missing option, or an invalid value.
        """
        options = {key: value for key, value in config.items() if key != "training"}
        known = {field.name for field in fields(cls)} - {"base"}
        histories = options.pop("histories", None)
        for key in options:
            if key not in known:
                raise InputError(
                    f"dataset.{key} is not an option of a dataset, {did_you_mean(key, {*known, 'histories'})}"
                )
        for key in ("name", "prepared_dir", "fields", "label", "layouts"):
            if not options.get(key):
                raise InputError(f"dataset.{key} is missing: every conf/dataset/NAME.yaml sets it")
        for key in ("raw_dir", "prepared_dir"):
            options[key] = Path(options[key]).expanduser().absolute() if options.get(key) else None
        if isinstance(options["fields"], str) or not isinstance(options["fields"], Sequence):
            raise InputError(f"dataset.fields is {options['fields']}: expected a list, as in [user,item]")
        options["fields"] = tuple(
            FieldSpec.from_config(field) for field in (*options["fields"], *_histories(histories))
        )
        options["layouts"] = tuple(options["layouts"])
        if isinstance(options.get("null_values"), str | int | float):
            value = options["null_values"]
            raise InputError(f"dataset.null_values is {value}: expected a list of texts, as in ['{value}']")
        options["null_values"] = tuple(raw_texts(options.get("null_values") or ()))
        if isinstance(options["label"], Mapping):
            options |= _label(options["label"])
        if options.get("split"):
            options["split"] = SplitSpec.from_config(options["split"])
        spec = cls(**options)
        spec._check()
        return spec

    def _check(self) -> None:
        names = [field.name for field in self.fields]
        if len(set(names)) < len(names):
            raise InputError(f"dataset.fields names a field twice: {', '.join(names)}")
        self._check_columns()
        raw = [field.raw for field in self.fields if field.in_rows]
        self._check_shared()
        self._check_sequences()
        if self.weighted_metrics and self.weight is None:
            raise InputError("dataset.weighted_metrics is true, but dataset.weight names no column")
        if self.split and self.split.by == self.label:
            raise InputError(f"dataset.split.by is the label '{self.label}': each split would have one class")
        for key in ("label", "click_probability"):
            if getattr(self, key) in raw:
                raise InputError(
                    f"dataset.{key} '{getattr(self, key)}' is among dataset.fields: the network would see the answer"
                )
        for key in ("min_count", "limit_rows"):
            value = getattr(self, key)
            if value is not None:
                check_whole(f"dataset.{key}", value, 1)
        for layout in self.layouts:
            reader = layout.get("reader")
            if reader not in READERS:
                raise InputError(f"dataset.layouts: no reader '{reader}', {did_you_mean(str(reader), READERS)}")
            quote = layout.get("quote", '"')
            if quote is not None and (not isinstance(quote, str) or len(quote) != 1):
                raise InputError(
                    f"dataset.layouts: quote is {quote!r}: expected one character, or null if quotes mean nothing"
                )
            separator = layout.get("separator", ",")
            if not isinstance(separator, str) or len(separator.encode()) != 1:
                raise InputError(
                    f"dataset.layouts: separator is {separator!r}: expected one ASCII character, polars reads no other;"
                    " write another one into the files first (for example sed 's/::/\\t/g')"
                )
            files = [key for key in layout if key not in ("reader", *READERS[reader].options)]
            if set(files) not in ({*SPLITS}, {ALL}):
                raise InputError(
                    f"dataset.layouts: expected reader and train, valid, test (or all), found {', '.join(layout)}"
                )

    def _check_columns(self) -> None:
        """Raises InputError for a field named as a column of another one, as tags.0 of a list."""
        owners: dict[str, str] = {}
        for field in self.fields:
            for column in self.encoded(field, 3).columns:
                if column in owners:
                    raise InputError(
                        f"dataset.fields: '{field.name}' and '{owners[column]}' both have a prepared column '{column}':"
                        " name one of them otherwise, with column: for its raw column"
                    )
                owners[column] = field.name

    def _check_shared(self) -> None:
        owners = {field.name: field for field in self.fields if field.counted}
        hashed = {field.name: field for field in self.fields if field.kind == IDS and field.hash}
        for field in self.fields:
            if field.file is not None and owners.get(str(field.of)) is not None and owners[str(field.of)].width > 1:
                raise InputError(f"dataset.fields: {field.name}.of is '{field.of}', a list: expected a single value")
            if field.of is not None and field.of not in (hashed | owners if field.kind == SEQUENCES else owners):
                raise InputError(
                    f"dataset.fields: {field.name}.of is '{field.of}', expected a field with a vocabulary of its own,"
                    f" {did_you_mean(field.of, owners)}"
                )
        if not any(field.has_ids for field in self.fields):
            raise InputError("dataset.fields has numbers alone: expected at least one categorical field")

    def _check_sequences(self) -> None:
        """Raises InputError for a sequence that does not fit the other fields."""
        fields = {field.name: field for field in self.fields}
        singles = [field.name for field in self.fields if field.kind == IDS and field.width == 1]
        leaders = {field.name: field for field in self.fields if field.kind == SEQUENCES and not field.aligned_with}
        for field in self.fields:
            if field.kind != SEQUENCES:
                continue
            if field.target is not None and field.target not in singles:
                raise InputError(
                    f"dataset.fields: {field.name}.target is '{field.target}', expected a field with one id,"
                    f" {did_you_mean(field.target, singles)}"
                )
            if field.of is not None and fields[field.of].width > 1:
                raise InputError(f"dataset.fields: {field.name}.of is '{field.of}', a list: expected a single value")
            if field.from_log and field.raw in self.columns:
                raise InputError(
                    f"dataset.histories: '{field.raw}' is also a raw column of the dataset: name the history otherwise"
                )
            for text in (field.where or {}).get(LABEL_CONDITION, ()):
                if text not in LABELS:
                    raise InputError(f"dataset.fields: {field.name}.where.label is '{text}': expected 0 or 1")
            if field.aligned_with is None:
                continue
            leader = leaders.get(field.aligned_with)
            if leader is None:
                raise InputError(
                    f"dataset.fields: {field.name}.aligned_with is '{field.aligned_with}', expected a sequence that is"
                    f" not aligned with another, {did_you_mean(field.aligned_with, leaders)}"
                )
            for option in ("width", "by", "order", "where"):
                if getattr(field, option) != getattr(leader, option):
                    raise InputError(
                        f"dataset.fields: {field.name} is aligned with {leader.name}, but its {option} is"
                        f" {getattr(field, option)!r}, not {getattr(leader, option)!r}"
                    )

    @property
    def columns(self) -> list[str]:
        """Raw columns to read: label, fields, histories, group, weight, split, probability."""
        by = self.split.by if self.split else None
        of_rows = [field.raw for field in self.fields if field.in_rows]
        of_log = [name for field in self.logs for name in (field.by, field.order, *self.conditions(field))]
        wanted = [self.label, *of_rows, *of_log, self.group, self.weight, by, self.click_probability]
        return [name for name in dict.fromkeys(wanted) if name]

    @property
    def logs(self) -> tuple[FieldSpec, ...]:
        """The histories that are made of the log itself, without those aligned with them."""
        return tuple(field for field in self.fields if field.leads_log)

    def conditions(self, field: FieldSpec) -> dict[str, tuple[str, ...]]:
        """Raw column -> the texts that it has in the events of a history, apart from the label."""
        return {name: texts for name, texts in (field.where or {}).items() if name != LABEL_CONDITION}

    @property
    def numbers(self) -> set[str]:
        """Those of them that are only used as numbers."""
        texts = {self.label, self.group, *(field.raw for field in self.fields if field.has_ids and field.in_rows)}
        texts |= {name for field in self.logs for name in (field.by, *self.conditions(field))}
        if self.split and self.split.values:
            texts.add(self.split.by)
        return {*self.columns} - texts

    def stand_in(self) -> Schema:
        """A schema of the same fields with three table rows each: builds a network without data.

        Also a hashed field has three, so that it takes no memory; see `least_rows`.
        """
        fitted = Scaling("none", quantiles=(0.0, 1.0))
        fields = tuple(
            self.encoded(field, 3, self.scaling(field, fitted) if field.kind == NUMBERS else None)
            for field in self.fields
        )
        fields = tuple(replace(field, vocabulary_size=3) if field.hashed else field for field in fields)
        return Schema(self.name, fields, self.label, self.group, self.weight)

    def least_rows(self) -> int:
        """Table rows that the dataset will have at least, as far as known before data is read."""
        rows = 0
        for field in self.fields:
            if field.has_ids and field.of is None:
                least = 0 if self.base is None else self.base.schema[field.name].vocabulary_size
                rows += self.encoded(field, min(least, (field.max_values or least) + 2)).vocabulary_size
        return rows

    def scaling(self, field: FieldSpec, fitted: Scaling) -> Scaling:
        """The scaling of a number: the base's, else what was fitted."""
        return fitted if self.base is None else self.base.schema[field.name].scaling or fitted

    def encoded(self, field: FieldSpec, vocabulary_size: int, scaling: Scaling | None = None) -> Field:
        """The field of the schema. A sequence of a hashed field is hashed, too."""
        owner = next((other for other in self.fields if other.name == field.of and other.hash), None)
        if owner is None:
            return field.encoded(vocabulary_size, scaling)
        return replace(field.encoded(int(owner.hash or 0) + 2), hashed=True)

    def limits(self, field: FieldSpec) -> tuple[int, int | None]:
        """`min_count` and `max_values` of a field."""
        return field.min_count or self.min_count, field.max_values

    @property
    def vector_files(self) -> tuple[str, ...]:
        """Names of the files with vectors."""
        return tuple(dict.fromkeys(field.file for field in self.fields if field.file))

    def cut(self, moments: Distribution) -> "DatasetSpec":
        """The dataset, split at the moments that give the shares of `split`."""
        assert self.split is not None
        return replace(self, split=self.split.at(moments))

    def settings(self) -> dict[str, Any]:
        """All settings that change the prepared rows; the manifest keeps them."""
        keys = ("name", "label", "group", "min_count", "limit_rows", "split_seed", "generator", "click_probability")
        younger: dict[str, Any] = {"positive": self.positive, "weight": self.weight, "null_values": self.null_values}
        younger["split"] = asdict(replace(self.split, moments=None)) if self.split else None
        younger["base"] = self.base.fingerprint if self.base else None
        settings = {"fields": [field.settings() for field in self.fields]} | {key: getattr(self, key) for key in keys}
        return settings | {key: value for key, value in younger.items() if value}

    def raw_files(self, folder: Path) -> RawFiles:
        """Find the first layout whose files are all in `folder`.

        Raises:
            InputError: each layout lacks a file; names the missing files and where to get them.
        """
        wanted = []
        for layout in self.layouts:
            reader = READERS[layout["reader"]]
            names = {split: layout[split] for split in (*SPLITS, ALL) if split in layout}
            files = {split: _find(folder, name) for split, name in names.items()}
            beside = (*reader.beside, *self.vector_files)
            if all(files.values()) and all((folder / name).exists() for name in beside):
                options = {key: layout[key] for key in reader.options if key in layout}
                return RawFiles(layout["reader"], options, files, self.null_values, self.vector_files, folder)
            parts = [*names.values(), *beside]
            wanted.append(
                f"  {layout['reader']:9} "
                + ", ".join(f"{part} ({'found' if _find(folder, part) else 'missing'})" for part in parts)
            )
        get_it = f"  python src/prepare.py dataset={self.name} download=true fetches them.\n" if self.download else ""
        raise InputError(
            f"raw files of {self.name} not found in {folder}; expected one of\n" + "\n".join(wanted) + "\n"
            f"{self.source.strip()}\n{get_it}Then put them there, or name their folder with dataset.raw_dir=FOLDER"
        )


def _label(config: Mapping[str, Any]) -> dict[str, Any]:
    """`label` and `positive` from a label that is made of another column.

    Raises:
        InputError: other options, or a condition that cannot be read.
    """
    positive = config.get("positive")
    if set(config) == {"column", "positive"}:
        if isinstance(positive, list | tuple) and positive:
            return {"label": config["column"], "positive": tuple(raw_texts(positive))}
        if isinstance(positive, str) and COMPARISON.fullmatch(positive):
            return {"label": config["column"], "positive": positive}
    raise InputError(
        f'dataset.label is {dict(config)}: expected a column, or {{column: rating, positive: ">= 4"}},'
        " or {column: action, positive: [click, buy]}"
    )


def _histories(config: Any) -> list[dict[str, Any]]:
    """The fields of `dataset.histories`; an aligned one takes options from its leading one.

    Raises:
        InputError: an entry that is not a mapping with a name, or without `by` and `order`; one
            that is aligned with no history before it.
    """
    histories: list[dict[str, Any]] = []
    for entry in config or ():
        if not isinstance(entry, Mapping) or not entry.get("name"):
            raise InputError(
                f"dataset.histories: {entry!r} is no history: expected"
                " {name: history, of: FIELD, by: USER, order: TIME, where: {label: 1}, width: 50}"
            )
        leaders = {one["name"]: one for one in histories if not one.get("aligned_with")}
        wanted = str(entry.get("aligned_with") or "")
        if wanted and wanted not in leaders:
            raise InputError(
                f"dataset.histories: {entry['name']}.aligned_with is '{wanted}', expected a history before it that is"
                f" not aligned with another, {did_you_mean(wanted, leaders)}"
            )
        leader = leaders.get(wanted, {})
        shared = {key: leader[key] for key in ("by", "order", "where", "width", "separator") if key in leader}
        history = {"separator": "|", "kind": SEQUENCES, **shared, **entry}
        for key in ("by", "order"):
            if not history.get(key):
                raise InputError(f"dataset.histories: {entry['name']}.{key} is missing: a history has `by` and `order`")
        histories.append(history)
    return histories


def _find(folder: Path, name: str) -> list[Path]:
    """The files that match a name, sorted; a folder stands for the parquet files in it."""
    if Path(name).is_absolute():
        folder = Path(Path(name).anchor)
        name = str(Path(name).relative_to(folder))
    paths = sorted(folder.glob(name))
    return [file for path in paths for file in (sorted(path.rglob("*.parquet")) if path.is_dir() else [path])]
