"""Raw files that nobody has described yet -> their layout, as conf/dataset/NAME.yaml has it."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from csv import reader as delimited
from glob import escape
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from tf4ctr.data import faults
from tf4ctr.data.describing import column_names
from tf4ctr.data.raw_files import RawFiles
from tf4ctr.data.readers import READERS, SCANS, csv_lines
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.data.splits import ALL, SPLITS
from tf4ctr.errors import InputError, did_you_mean

SUFFIXES = {
    **dict.fromkeys((".csv", ".tsv", ".txt", ".dat", ".data"), "csv"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".ndjson", ".jsonl", ".json"), "ndjson"),
    **dict.fromkeys((".arrow", ".feather", ".ipc"), "arrow"),
}
PLAIN = (".txt", ".dat", ".data")  # a README may have them: left aside if a folder has other tables
COMPRESSIONS = (".gz", ".zst")
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "dev", "eval"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SEPARATORS = (",", "\t", ";", "|", "\x01", " ")  # between cells; \x01 is the default of Hive
SAMPLE_LINES = 100  # that show separator and header of a text file
RECORDS = 1000  # lines that show the keys of an ndjson file, as its reader has it
CONSISTENT = 0.5  # share of lines that have as many cells as the first one, at least
LIBSVM = re.compile(r"\S+( \d+:\S+)+")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class Source(NamedTuple):
    """Raw files and how to read them.

    Attributes:
        folder: of the files: `raw_dir`.
        layout: an entry of `layouts`.
        raw: all files as one set.
        columns: that can be read in all files, in the order of the first one.
        unreadable: other columns, and why they cannot be read.
        notes: what to know about the files.
    """

    folder: Path
    layout: dict[str, Any]
    raw: RawFiles
    columns: list[str]
    unreadable: dict[str, str]
    notes: list[str]

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return self.raw.files[ALL]

    @property
    def has_splits(self) -> bool:
        """Whether the files are split already."""
        return ALL not in self.layout


def find(
    inputs: Sequence[str], header: Sequence[str] | None = None, quote: str | None = '"', label: str | None = None
) -> Source:
    """Find the files, their format and their columns.

    Args:
        inputs: files, folders, and names with wildcards.
        header: names of the columns of delimited text without a header line.
        quote: of delimited text, see `readers.csv`.
        label: the label's column if it is known. Files without it are no validation or test files.

    Raises:
        InputError: no files, files of several formats, or of a format without names of columns.
    """
    folder, paths, glob = _matches(inputs)
    notes: list[str] = []
    splits = _splits(folder, paths, notes)
    reader = _format(splits)
    options = _csv_options(next(iter(splits.values()))[0], header, quote) if reader == "csv" else {}
    if "header" in options and header is None:
        notes.append("the files have no header line, so the columns are numbered: header=[click,user,...] names them")
    columns = {split: _columns_of(files, reader, options) for split, files in splits.items()}
    splits = _with_labels(splits, columns, label, notes)
    known = _shared([columns[split] for split in splits])
    splits = _completed(splits, notes)
    files = [path for split in splits for path in splits[split]]
    return Source(
        folder,
        {"reader": reader, **options, **{split: _pattern(folder, files, glob) for split, files in splits.items()}},
        RawFiles(reader, options, {ALL: list(dict.fromkeys(files))}),
        [name for name, reason in known.items() if reason is None],
        {name: reason for name, reason in known.items() if reason is not None},
        notes,
    )


def _matches(inputs: Sequence[str]) -> tuple[Path, list[Path], str | None]:
    """The folder of all files, the files, and the only input if that is a name with wildcards."""
    expanded = [_expand(Path(text).expanduser().absolute()) for text in inputs]
    folder = Path(os.path.commonpath([folder for folder, _, _ in expanded]))
    paths = sorted({path for _, files, _ in expanded for path in files})
    return folder, paths, expanded[0][2] if len(expanded) == 1 else None


def _expand(path: Path) -> tuple[Path, list[Path], str | None]:
    if path.is_file():
        folder = path.parent.resolve()
        return folder, [folder / path.name], None
    if path.is_dir():
        return path.resolve(), _files_of(path.resolve()), None
    first = next((number for number, part in enumerate(path.parts) if set(part) & set("*?[")), None)
    if first is None:
        near = [other.name for other in path.parent.glob("*")]
        hint = f" ({did_you_mean(path.name, near)})" if near else ""
        raise InputError(f"input={path} does not exist{hint}: name a file, a folder, or 'FOLDER/*.csv'")
    folder, glob = Path(*path.parts[:first]).resolve(), str(Path(*path.parts[first:]))
    paths = [file for file in folder.glob(glob) if file.is_file()]
    if not paths:
        raise InputError(f"input={path} matches no file in {folder}")
    return folder, paths, glob


def _suffix(path: Path) -> str:
    suffixes = path.suffixes[:-1] if path.suffix in COMPRESSIONS else path.suffixes
    return suffixes[-1].lower() if suffixes else ""


def _files_of(folder: Path) -> list[Path]:
    """The files of a folder whose suffix is that of a table; of its subfolders if it has none."""
    for glob in ("*", "**/*"):
        paths = [
            path
            for path in sorted(folder.glob(glob))
            if path.is_file() and _suffix(path) in SUFFIXES and not path.name.startswith((".", "_"))
        ]
        if paths:
            return paths
    raise InputError(f"input={folder} has no files ending with {', '.join(SUFFIXES)} (or these with .gz, .zst)")


def _split_of(path: Path) -> str | None:
    """The split that the name of a file says, else those of its folders; None if they say none."""
    for part in reversed(path.parts):
        splits = {SPLIT_WORDS[word] for word in re.findall("[a-z]+", part.lower()) if word in SPLIT_WORDS}
        if len(splits) == 1:
            return splits.pop()
    return None


def _splits(folder: Path, paths: list[Path], notes: list[str]) -> dict[str, list[Path]]:
    """split -> files, of train and at least one other split; or `all` -> files."""
    names = {path: _split_of(path.relative_to(folder)) for path in paths}
    splits = {split: [path for path in paths if names[path] == split] for split in SPLITS}
    if not splits["train"] or not (splits["valid"] or splits["test"]):
        tables = [path for path in paths if _suffix(path) not in PLAIN]
        return {ALL: tables or paths}
    if ignored := [path.name for path in paths if names[path] is None]:
        notes.append(f"not used: {', '.join(ignored)}")
    return {split: files for split, files in splits.items() if files}


def _with_labels(
    splits: dict[str, list[Path]],
    columns: Mapping[str, Mapping[str, str | None]],
    label: str | None,
    notes: list[str],
) -> dict[str, list[Path]]:
    """The splits without those whose files lack the label that the training files have."""
    kept = dict(splits)
    for split in [split for split in SPLITS[1:] if split in splits]:
        lacking = [name for name in columns["train"] if name not in columns[split]]
        labels = [name for name in lacking if (column_names.is_label(name) if label is None else name == label)]
        if labels:
            notes.append(f"not used: {kept.pop(split)[0].name}, which has no column '{labels[0]}'")
    return kept


def _completed(splits: dict[str, list[Path]], notes: list[str]) -> dict[str, list[Path]]:
    """All three splits, or `all`."""
    if ALL in splits:
        return splits
    if len(splits) == 1:
        return {ALL: splits["train"]}
    if len(splits) == 2:
        (other,) = splits.keys() - {"train"}
        missing = "test" if other == "valid" else "valid"
        notes.append(
            f"there is no {missing} file: the {other} file is used for both, so the metrics of the test split are"
            " those of the rows that choose the best epoch"
        )
        splits = {**splits, missing: splits[other]}
    return {split: splits[split] for split in SPLITS}


def _format(splits: Mapping[str, list[Path]]) -> str:
    """The name of the reader of all files."""
    readers = {path: _reader_of(path) for paths in splits.values() for path in paths}
    if len(set(readers.values())) > 1:
        shown = ", ".join(f"{path.name} ({reader})" for path, reader in readers.items())
        raise InputError(f"the input has files of several formats: {shown}. Name those of one, as in 'FOLDER/*.csv'")
    return next(iter(readers.values()))


def _reader_of(path: Path) -> str:
    """The name of a file's reader, by its first bytes."""
    with path.open("rb") as file:
        start = file.read(6)
    if start[:4] == b"PAR1":
        return "parquet"
    if start == b"ARROW1":
        return "arrow"
    csv_lines(path)  # refuses an empty file and other encodings
    line = _lines(path)[0].strip()
    if line.startswith("["):
        raise InputError(f"{path} is one JSON list: write one object per line (jq -c '.[]' {path.name} > rows.ndjson)")
    if LIBSVM.fullmatch(line):
        raise InputError(
            f"{path} has lines as 'label id:1 id:1', which do not name their fields:"
            " write conf/dataset/NAME.yaml by hand, with {reader: libsvm, ...} in its layouts"
        )
    return "ndjson" if line.startswith("{") else "csv"


def _lines(path: Path, count: int = SAMPLE_LINES) -> list[str]:
    """The first lines of a text file that are not blank."""
    try:
        lines = pl.scan_lines(path, glob=False).head(count).collect().to_series().to_list()
    except pl.exceptions.PolarsError as error:  # names the line that is not UTF-8
        faults.refuse_unreadable(DatasetSpec("", Path(), (), "", ()), RawFiles("csv", {}, {ALL: [path]}), ALL, error)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}): expected text as UTF-8") from None
    return [line.removeprefix("\ufeff").rstrip("\r") for line in lines if line.strip()]


def _csv_options(path: Path, header: Sequence[str] | None, quote: str | None) -> dict[str, Any]:
    """The reader's options that differ from its defaults."""
    lines = _lines(path)
    separator = separator_of(lines, quote)
    if separator is None:
        raise InputError(
            f"{path}: its lines have one cell each, expected cells between commas, tabs, ';' or '|'. Its first line is"
            f"\n  {lines[0][:200]}"
        )
    rows = _rows(lines, separator, quote)
    if header is not None and len(header) != len(rows[0]):
        raise InputError(f"header has {len(header)} names, the first line of {path} has {len(rows[0])} cells")
    if header is None and not has_header(rows):
        header = [f"column_{number}" for number in range(1, len(rows[0]) + 1)]
    options = {"separator": separator, "header": list(header) if header else None, "quote": quote}
    defaults = {"separator": ",", "header": None, "quote": '"'}
    return {key: value for key, value in options.items() if value != defaults[key]}


def _rows(lines: Sequence[str], separator: str, quote: str | None) -> list[list[str]]:
    if quote is None:
        return [line.split(separator) for line in lines]
    return [next(delimited([line], delimiter=separator, quotechar=quote)) for line in lines]


def separator_of(lines: Sequence[str], quote: str | None = '"') -> str | None:
    """The separator that gives the most lines the same number of cells, above 1; None if none does.

    Args:
        lines: the first ones of a file.
        quote: the character around a cell that contains separators; None if quotes mean nothing.
    """
    best: tuple[float, int, str | None] = (0.0, 1, None)
    for separator in SEPARATORS:
        cells = [len(row) for row in _rows(lines, separator, quote)]
        share = cells.count(cells[0]) / len(cells)
        if cells[0] > 1 and share >= CONSISTENT and (share, cells[0]) > best[:2]:
            best = (share, cells[0], separator)
    return best[2]


def has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the columns.

    It does if it has a text above a column of numbers, or texts alone, each of them once.
    """
    first, rest = rows[0], rows[1:]
    for number, cell in enumerate(first):
        values = [row[number] for row in rest if len(row) > number and row[number]]
        if cell and values and not NUMBER.fullmatch(cell) and all(map(NUMBER.fullmatch, values)):
            return True
    return not any(map(NUMBER.fullmatch, first)) and len({*first}) == len(first) and all(first[1:])


def _columns_of(paths: list[Path], reader: str, options: Mapping[str, Any]) -> dict[str, str | None]:
    """The columns of some files, and why a column cannot be read; None if it can."""
    if reader == "ndjson":
        return _keys(paths)
    return _shared([_columns(path, reader, options) for path in paths])


def _columns(path: Path, reader: str, options: Mapping[str, Any]) -> dict[str, str | None]:
    if reader == "csv":
        form = {key: options[key] for key in ("separator", "quote") if key in options}
        names = options.get("header") or csv_lines(path, **form)[0]
        repeated = {name: "its name is in the header several times" for name in names if names.count(name) > 1}
        return {name: repeated.get(name) for name in names if name}
    READERS[reader].rows([path], [])  # refuses a damaged file
    return {name: _unusable(dtype) for name, dtype in SCANS[reader](path).collect_schema().items()}


def _unusable(dtype: pl.DataType) -> str | None:
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    if inner.is_nested() or inner in (pl.Binary, pl.Object, pl.Duration):
        return f"its type {str(dtype)[:60]} holds no single values"
    return None


def _keys(paths: list[Path]) -> dict[str, str | None]:
    """The keys in the first lines of ndjson files; `a.b` is the key b of an object a."""
    kinds: dict[str, set[str]] = {}
    for path in paths:
        for line in _lines(path, RECORDS):
            try:
                _add_keys(json.loads(line), "", kinds)
            except (ValueError, AttributeError):
                raise InputError(f"{path} has a line that is not a JSON object: {line[:60]}") from None
    return {
        key: f"it is {' or '.join(sorted(found))}" if len(found) > 1 or "a list of objects" in found else None
        for key, found in kinds.items()
        if found != {"an object"}
    }


def _add_keys(record: Mapping[str, Any], prefix: str, kinds: dict[str, set[str]]) -> None:
    for key, value in record.items():
        name, kind = f"{prefix}{key}", "a value"
        if isinstance(value, dict):
            kind = "an object"
            _add_keys(value, f"{name}.", kinds)
        elif isinstance(value, list):
            kind = "a list of objects" if any(isinstance(part, dict | list) for part in value) else "a list"
        kinds.setdefault(name, set()).update([kind] if value is not None else [])


def _shared(files: Sequence[Mapping[str, str | None]]) -> dict[str, str | None]:
    """The columns of all files, in the order of the first; others with the reason."""
    shared: dict[str, str | None] = {}
    for name in dict.fromkeys(name for columns in files for name in columns):
        reasons = [columns.get(name, "not all files have it") for columns in files]
        shared[name] = next((reason for reason in reasons if reason), None)
    return shared


def _pattern(folder: Path, paths: list[Path], glob: str | None) -> str:
    names = [path.relative_to(folder).as_posix() for path in paths]
    if len(names) == 1:
        return escape(names[0])
    start, end = _common_start(names), _common_start([name[::-1] for name in names])[::-1]
    suffix = paths[0].name[len(paths[0].stem) :]
    for candidate in (glob, f"{escape(start)}*{escape(end)}", f"{escape(start)}*{suffix}", f"**/*{suffix}"):
        if candidate and sorted(path for path in folder.glob(candidate) if path.is_file()) == sorted(paths):
            return candidate
    raise InputError(
        f"no name with wildcards matches {', '.join(names[:3])}, ... and no other file in {folder}:"
        " put the files into a folder of their own"
    )


def _common_start(names: Sequence[str]) -> str:
    first, last = min(names), max(names)  # names between them in sorted order begin as both do
    return "".join(sign for sign, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
