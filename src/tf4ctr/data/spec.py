"""The description of a dataset in conf/dataset/NAME.yaml, checked before any data is read."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import polars as pl

from tf4ctr.data.readers import READERS, BadRow, gzipped, line_of, text_of
from tf4ctr.data.transforms import TRANSFORMS
from tf4ctr.errors import InputError, did_you_mean

SPLITS = ("train", "valid", "test")
SHOWN_CHARACTERS = 200  # of an invalid line, in its error
ALL = "all"  # in place of the splits, for raw files without splits


@dataclass(frozen=True)
class FieldSpec:
    """One field and how a raw column becomes its value.

    Attributes:
        name: the field's name.
        column: the raw column; None if it has the same name.
        transform: a name of `TRANSFORMS`, applied to the raw text; None for none.
        separator: the text between the values of a list field. None for a single value, and for a
            raw column that is a list already.
        width: how many values of a list field are kept, the first ones; 1 for a single value.
    """

    name: str
    column: str | None = None
    transform: str | None = None
    separator: str | None = None
    width: int = 1

    @property
    def raw(self) -> str:
        """The raw column."""
        return self.column or self.name

    def value(self, dtype: pl.DataType | None = None) -> pl.Expr:
        """Raw column -> the field's text, or list of texts; null for a missing value.

        Args:
            dtype: of the raw column: text (None), or a list of texts.

        Raises:
            InputError: a list where the field takes one value, or the reverse.
        """
        self._check_type(dtype)
        value = pl.col(self.raw)
        if self.transform:
            value = TRANSFORMS[self.transform].apply(value)
        if self.width > 1:
            parts = value if isinstance(dtype, pl.List) else value.str.split(str(self.separator))
            value = parts.list.eval(pl.element().filter(pl.element() != ""))
        return value.alias(self.name)

    def _check_type(self, dtype: pl.DataType | None) -> None:
        if isinstance(dtype, pl.List) and self.width == 1:
            raise InputError(
                f"field '{self.name}': its column '{self.raw}' is a list: set the field's width, the values to keep,"
                f" as in {{name: {self.name}, width: 3}}"
            )
        if isinstance(dtype, pl.List) and self.transform:
            raise InputError(f"field '{self.name}': its column '{self.raw}' is a list, and a transform takes one text")
        if not isinstance(dtype, pl.List) and self.width > 1 and not self.separator:
            raise InputError(
                f"field '{self.name}': its column '{self.raw}' is text: set the field's separator,"
                f' as in {{name: {self.name}, separator: "|", width: {self.width}}}'
            )

    @classmethod
    def from_config(cls, config: str | Mapping[str, Any]) -> "FieldSpec":
        """Build from an entry of `dataset.fields`: a name, or a mapping.

        Raises:
            InputError: an unknown option or an invalid value.
        """
        options = {"name": config} if isinstance(config, str) else dict(config)
        known = [field.name for field in fields(cls)]
        for key in options:
            if key not in known:
                raise InputError(f"dataset.fields: {key} is not an option of a field, {did_you_mean(key, known)}")
        name = options.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name) or name.startswith("__"):
            raise InputError(
                f"dataset.fields: '{name}' cannot be a field's name: use letters, digits, '.', '-' and '_'"
            )
        spec = cls(**options)
        if spec.transform and spec.transform not in TRANSFORMS:
            raise InputError(
                f"dataset.fields: {name}.transform={spec.transform}: {did_you_mean(spec.transform, TRANSFORMS)}"
            )
        if type(spec.width) is not int or spec.width < 1:
            raise InputError(f"dataset.fields: {name}.width is {spec.width!r}: expected a whole number from 1 on")
        if spec.separator and spec.width == 1:
            raise InputError(f"dataset.fields: {name} has a separator and width 1: a list needs a width from 2 on")
        return spec


@dataclass(frozen=True)
class RawFiles:
    """The raw files of a dataset: a layout of `dataset.layouts` and the files that match it.

    Attributes:
        reader: name in `READERS`.
        options: of the reader.
        files: split -> its files, or `all` -> the files of a set without splits.
    """

    reader: str
    options: Mapping[str, Any]
    files: Mapping[str, list[Path]]

    def rows(self, paths: list[Path], columns: list[str]) -> pl.LazyFrame:
        """The given columns, as text or lists of texts, and `__short`, of some of the files."""
        return READERS[self.reader].rows(paths, columns, **self.options)

    def bad_rows(self, path: Path, columns: list[str]) -> list[BadRow]:
        """The invalid lines of one file."""
        return READERS[self.reader].bad_rows(path, columns, **self.options)

    @property
    def first_line(self) -> int:
        """Line of a file's first row."""
        return 1 if self.options.get("header") else READERS[self.reader].first_line

    @property
    def unit(self) -> str:
        """What a row of the file is called: a line of text, or a row."""
        return "line" if READERS[self.reader].lines else "row"

    def line_of(self, path: Path, row: int) -> int:
        """The line (from 1) of a file's row (from 0), blank lines counted; of parquet the row."""
        number = self.first_line + row - 1
        return line_of(path, number) if READERS[self.reader].lines else number + 1

    def shown(self, path: Path, line: int) -> str:
        """The line itself, below an error that names it; nothing for a file without lines."""
        return f"\n  {text_of(path, line)[:SHOWN_CHARACTERS]}" if READERS[self.reader].lines else ""

    @property
    def bytes(self) -> int:
        """Size of all files; a gzipped one counts five times, the usual ratio for click logs."""
        return sum(path.stat().st_size * (5 if gzipped(path) else 1) for paths in self.files.values() for path in paths)

    def fingerprint(self) -> dict[str, Any]:
        """Reader, its options, and name, size and time of every file, as JSON has it."""

        def stat(path: Path) -> list[Any]:
            return [path.name, path.stat().st_size, path.stat().st_mtime_ns]

        files = {split: [stat(path) for path in paths] for split, paths in self.files.items()}
        folder = next(iter(self.files.values()))[0].parent
        beside = [stat(folder / name) for name in READERS[self.reader].beside]
        options = {"options": dict(self.options)} if self.options else {}
        return {"reader": self.reader, **options, **files, **({"beside": beside} if beside else {})}


@dataclass(frozen=True)
class DatasetSpec:
    """One raw dataset and how to prepare it.

    Attributes:
        name: the dataset's name.
        raw_dir: folder of the raw files.
        prepared_dir: folder that preparation writes.
        fields: what becomes ids, in order.
        label: column of clicks: 0 and 1, or true and false.
        group: column that gAUC groups by; None for no gAUC.
        min_count: training rows that a value needs to get a table row of its own.
        limit_rows: take only the first rows of each split (of the whole, if the raw files have no
            splits); None for all.
        layouts: raw forms; the first whose files are all there is taken. A layout names a
            `reader`, its options, and the files of `train`, `valid` and `test`, or `all` for files
            without splits, which are split 8:1:1. Names may have wildcards.
        split_seed: of that split.
        rows: rows that each split must have; None if not known.
        source: where to get the raw files; shown when they are missing.
        download: what `download=true` fetches, see `download.fetch`; None if that is not possible.
        generator: arguments of `synthetic.generate` for a dataset that is drawn, not read.
        click_probability: raw column with the true click probability (drawn datasets), which gives
            the best possible AUC.
    """

    name: str
    prepared_dir: Path
    fields: tuple[FieldSpec, ...]
    label: str
    layouts: tuple[Mapping[str, Any], ...]
    raw_dir: Path | None = None
    group: str | None = None
    min_count: int = 1
    limit_rows: int | None = None
    split_seed: int = 0
    rows: Mapping[str, int] | None = None
    source: str = ""
    download: Mapping[str, Any] | None = None
    generator: Mapping[str, Any] | None = None
    click_probability: str | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "DatasetSpec":
        """Build from the resolved `dataset` node of a config.

        Its `training` node has defaults for other groups and is ignored here.

        Raises:
            InputError: an unknown or missing option, or an invalid value.
        """
        options = {key: value for key, value in config.items() if key != "training"}
        known = {field.name for field in fields(cls)}
        for key in options:
            if key not in known:
                raise InputError(f"dataset.{key} is not an option of a dataset, {did_you_mean(key, known)}")
        for key in ("name", "prepared_dir", "fields", "label", "layouts"):
            if not options.get(key):
                raise InputError(f"dataset.{key} is missing: every conf/dataset/NAME.yaml sets it")
        for key in ("raw_dir", "prepared_dir"):
            options[key] = Path(options[key]).expanduser().absolute() if options.get(key) else None
        options["fields"] = tuple(FieldSpec.from_config(field) for field in options["fields"])
        options["layouts"] = tuple(options["layouts"])
        spec = cls(**options)
        spec._check()
        return spec

    def _check(self) -> None:
        names = [field.name for field in self.fields]
        if len(set(names)) < len(names):
            raise InputError(f"dataset.fields names a field twice: {', '.join(names)}")
        raw = [field.raw for field in self.fields]
        for key in ("label", "click_probability"):
            if getattr(self, key) in raw:
                raise InputError(
                    f"dataset.{key} '{getattr(self, key)}' is among dataset.fields: the network would see the answer"
                )
        for key in ("min_count", "limit_rows"):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"dataset.{key} is {value!r}: expected a whole number from 1 on")
        for layout in self.layouts:
            reader = layout.get("reader")
            if reader not in READERS:
                raise InputError(f"dataset.layouts: no reader '{reader}', {did_you_mean(str(reader), READERS)}")
            quote = layout.get("quote", '"')
            if quote is not None and (not isinstance(quote, str) or len(quote) != 1):
                raise InputError(
                    f"dataset.layouts: quote is {quote!r}: expected one character, or null if quotes mean nothing"
                )
            files = [key for key in layout if key not in ("reader", *READERS[reader].options)]
            if set(files) not in ({*SPLITS}, {ALL}):
                raise InputError(
                    f"dataset.layouts: expected reader and train, valid, test (or all), found {', '.join(layout)}"
                )

    @property
    def columns(self) -> list[str]:
        """Raw columns to read: label, fields, group and click probability."""
        wanted = [self.label, *(field.raw for field in self.fields), self.group, self.click_probability]
        return [name for name in dict.fromkeys(wanted) if name]

    def settings(self) -> dict[str, Any]:
        """All settings that change the prepared rows; the manifest keeps them."""
        keys = ("name", "label", "group", "min_count", "limit_rows", "split_seed", "generator", "click_probability")
        return {"fields": [asdict(field) for field in self.fields]} | {key: getattr(self, key) for key in keys}

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
            if all(files.values()) and all((folder / name).exists() for name in reader.beside):
                return RawFiles(layout["reader"], {key: layout[key] for key in reader.options if key in layout}, files)
            parts = [*names.values(), *reader.beside]
            wanted.append(
                f"  {layout['reader']:9} "
                + ", ".join(f"{part} ({'found' if any(folder.glob(part)) else 'missing'})" for part in parts)
            )
        get_it = f"  python src/prepare.py dataset={self.name} download=true fetches them.\n" if self.download else ""
        raise InputError(
            f"raw files of {self.name} not found in {folder}; expected one of\n" + "\n".join(wanted) + "\n"
            f"{self.source.strip()}\n{get_it}Then put them there, or name their folder with dataset.raw_dir=FOLDER"
        )


def _find(folder: Path, name: str) -> list[Path]:
    """The files that match a name, sorted; a folder stands for the parquet files in it."""
    paths = sorted(folder.glob(name))
    return [file for path in paths for file in (sorted(path.rglob("*.parquet")) if path.is_dir() else [path])]
