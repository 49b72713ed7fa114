"""A field of conf/dataset/NAME.yaml: how a raw column becomes its value."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NoReturn

import polars as pl

from tf4ctr.data.schema import GAP_BUCKETS, IDS, NUMBERS, SEQUENCES, VECTORS, Field, Scaling
from tf4ctr.data.splits import raw_texts
from tf4ctr.data.transforms import NUMBER_TRANSFORMS, TRANSFORMS, finite, missing
from tf4ctr.errors import InputError, did_you_mean

# in `where` of a history: the label, whatever its raw column is called; 0 or 1, or true or false
LABEL_CONDITION = "label"

KINDS = (IDS, SEQUENCES, NUMBERS, VECTORS)
POOLINGS = ("sum", "mean", "max")
SCALES = ("standard", "minmax", "quantile", "none")
OPTIONS = {  # that not every kind has
    "pooling": (IDS,),
    **dict.fromkeys(("min_count", "max_values", "hash"), (IDS, SEQUENCES)),
    **dict.fromkeys(("scale", "clip", "invalid"), (NUMBERS,)),
    **dict.fromkeys(("separator", "width", "of"), (IDS, SEQUENCES, VECTORS)),
    **dict.fromkeys(("aligned_with", "target", "by", "order", "where", "gaps"), (SEQUENCES,)),
    **dict.fromkeys(("file", "frozen"), (VECTORS,)),
    "transform": (IDS, NUMBERS),
}
MAX_HASH = 2**31 - 2  # ids are int32, two rows are padding and out of vocabulary


@dataclass(frozen=True)
class FieldSpec:
    """One field and how a raw column becomes its value.

    Attributes:
        name: the field's name.
        column: the raw column; None if it has the same name.
        kind: `categorical` for ids, `sequence` for ids in order, `number`, or `vector`.
        transform: a name of `TRANSFORMS` (ids) or of `NUMBER_TRANSFORMS` (numbers); None for none.
        separator: the text between the values of a list field or a vector. None for a single
            value, and for a raw column that is a list already.
        width: how many values of a list field are kept, the first ones; 1 for a single value. Of a
            sequence, the last ones are kept. Of a vector, the numbers that it has.
        pooling: how the embeddings of a list field become one: sum, mean or max.
        of: the field whose vocabulary and table rows this one shares; None for its own. With
            `file`, the field whose values the vectors belong to.
        min_count: how often a value must occur in the training rows to be known, see `DatasetSpec`;
            None for the dataset's.
        max_values: known values at most, the most frequent ones; None for all.
        hash: table rows by a stable hash of the value, without a vocabulary; None for none.
        scale: how a number is scaled, see `Scaling`.
        clip: lowest and highest number; values beyond become these. None for no limits.
        invalid: whether a text that is not a number is an `error`, or `missing`.
        aligned_with: the sequence that this one belongs to, position by position: the items that a
            user clicked, and their categories. None for a sequence that stands alone or leads.
        target: the field whose value in the same row an attention compares with the sequence; None
            for the field `of`.
        by: makes a sequence of the log itself, see `histories.py`: the raw column of the user; None
            for a sequence in a raw column.
        order: the raw column of the moments, numbers or ISO dates.
        where: raw column, or `label` -> its values in the rows that count as events.
        gaps: the values are the times from the events to this row, in powers of two.
        file: a file beside the raw files with a vector for each value of the field `of`; None for
            a vector in each row. Its columns have the names of the two raw columns.
        frozen: whether the vectors of such a file stay as they are, or are trained.
    """

    name: str
    column: str | None = None
    transform: str | None = None
    separator: str | None = None
    width: int = 1
    kind: str = IDS
    pooling: str = "sum"
    of: str | None = None
    min_count: int | None = None
    max_values: int | None = None
    hash: int | None = None
    scale: str = "standard"
    clip: tuple[float | None, float | None] | None = None
    invalid: str = "error"
    file: str | None = None
    frozen: bool = True
    aligned_with: str | None = None
    target: str | None = None
    by: str | None = None
    order: str | None = None
    where: Mapping[str, tuple[str, ...]] | None = None
    gaps: bool = False

    @property
    def raw(self) -> str:
        """The raw column."""
        return self.column or self.name

    @property
    def from_log(self) -> bool:
        """Whether it is a history that is made of the rows themselves."""
        return self.by is not None

    @property
    def leads_log(self) -> bool:
        """Whether it is such a history, and not aligned with another one."""
        return self.from_log and self.aligned_with is None

    def members(self, fields: Iterable["FieldSpec"]) -> list["FieldSpec"]:
        """The sequence and those among `fields` that are aligned with it."""
        return [field for field in fields if self.name in (field.name, field.aligned_with)]

    @property
    def in_rows(self) -> bool:
        """Whether the raw rows have its column."""
        return self.file is None and not self.from_log

    @property
    def has_ids(self) -> bool:
        """Whether its values are rows of the table."""
        return self.kind in (IDS, SEQUENCES)

    @property
    def counted(self) -> bool:
        """Whether the values of training rows make a vocabulary of the field's own."""
        return self.has_ids and self.hash is None and self.of is None and not self.gaps

    @property
    def has_lists(self) -> bool:
        """Whether `value` is a list of texts, of a field with ids."""
        return self.kind == SEQUENCES or self.width > 1

    def value(self, dtype: pl.DataType | None = None) -> pl.Expr:
        """Raw column -> the field's text, list of texts, or number; null for a missing value.

        A missing value of a sequence keeps its place, that of a list field does not.

        Args:
            dtype: of the raw column: text (None), a list of texts, or numbers for a number.

        Raises:
            InputError: a list where the field takes one value, or the reverse.
        """
        self._check_type(dtype)
        if self.kind == NUMBERS:
            return self._number().alias(self.name)
        value = pl.col(self.raw)
        if self.kind == VECTORS:
            return self._vector(dtype).alias(self.name)
        if self.transform:
            value = TRANSFORMS[self.transform].apply(value)
        if self.kind == SEQUENCES:
            latest = self._sequence(dtype).list.tail(self.width)
            return latest.list.eval(pl.when(pl.element() != "").then(pl.element())).alias(self.name)
        if self.width > 1:
            parts = value if isinstance(dtype, pl.List) else value.str.split(str(self.separator))
            value = parts.list.eval(pl.element().filter(pl.element() != ""))
        return value.alias(self.name)

    def _sequence(self, dtype: pl.DataType | None) -> pl.Expr:
        """A list of texts, oldest first. An empty text in it is a missing value, see `value`."""
        value = pl.col(self.raw)
        if isinstance(dtype, pl.List):
            return value
        return pl.when(value != "").then(value).str.split(str(self.separator))

    def length(self, dtype: pl.DataType | None) -> pl.Expr:
        """How many values the raw sequence has in a row; 0 for a missing one."""
        return self._sequence(dtype).list.len().fill_null(0)

    def _number(self) -> pl.Expr:
        value = finite(pl.col(self.raw))
        if self.transform:
            value = NUMBER_TRANSFORMS[self.transform](value)
        return value.clip(*self.clip) if self.clip else value

    def _vector(self, dtype: pl.DataType | None) -> pl.Expr:
        """A list of numbers, null for a missing vector."""
        value = pl.col(self.raw)
        if isinstance(dtype, pl.Array):
            value = value.arr.to_list()
        elif not isinstance(dtype, pl.List):
            value = value.str.split(str(self.separator))
        return value.list.eval(finite(pl.element()))

    def bad(self, dtype: pl.DataType | None = None) -> pl.Expr | None:
        """Whether a raw value is invalid; a missing one is not. None if every value is valid.

        Args:
            dtype: of the raw column, see `value`.
        """
        value = pl.col(self.raw)
        if self.kind == VECTORS:
            vector = self._vector(dtype)
            wrong = (vector.list.len() != self.width) | vector.list.eval(pl.element().is_null()).list.any()
            return (wrong & value.is_not_null()).fill_null(False)
        if self.kind == NUMBERS:
            if self.invalid == "missing":
                return None
            return finite(value).is_null() & ~missing(value)
        if self.transform:
            return (~value.str.contains(TRANSFORMS[self.transform].pattern)).fill_null(False)
        return None

    @property
    def expected(self) -> str:
        """What a valid raw value is, for errors."""
        if self.kind == VECTORS:
            return f"a vector of {self.width} finite numbers"
        if self.kind == NUMBERS:
            return "a finite number (invalid: missing takes other values as missing)"
        return TRANSFORMS[str(self.transform)].expected

    def _check_type(self, dtype: pl.DataType | None) -> None:
        is_list = isinstance(dtype, pl.List | pl.Array)
        column = f"field '{self.name}': its column '{self.raw}'"
        if self.kind == VECTORS and (is_list or self.separator):
            return
        if is_list and self.kind == NUMBERS:
            raise InputError(f"{column} is a list, expected one number per row")
        if is_list and self.width == 1:
            raise InputError(
                f"{column} is a list: set the field's width, the values to keep, as in {{name: {self.name}, width: 3}}"
            )
        if is_list and self.transform:
            raise InputError(f"{column} is a list, and a transform takes one text")
        if not is_list and self.width > 1 and not self.separator:
            raise InputError(
                f"{column} is text: set the field's separator,"
                f' as in {{name: {self.name}, separator: "|", width: {self.width}}}'
            )

    def encoded(self, vocabulary_size: int, scaling: Scaling | None = None) -> Field:
        """The field of the schema.

        Args:
            vocabulary_size: table rows of an id; with `hash` it is known already.
            scaling: of a number.
        """
        size = (self.hash + 2 if self.hash else vocabulary_size) if self.has_ids else 0
        if self.gaps:
            size = GAP_BUCKETS + 2
        hashed, leader = self.hash is not None, self.aligned_with
        field = Field(self.name, size, self.width, self.kind, self.of, self.pooling, hashed, scaling, self.frozen)
        if self.kind != SEQUENCES:
            return field
        return replace(field, aligned_with=leader, target=self.target or self.of, gaps=self.gaps)

    def settings(self) -> dict[str, Any]:
        """All that changes the prepared rows; options younger than 0.1.0 only if they are set."""
        first = ("name", "column", "transform", "separator", "width")
        defaults = {field.name: field.default for field in fields(self)}
        return {key: value for key, value in asdict(self).items() if key in first or value != defaults[key]}

    @classmethod
    def from_config(cls, config: str | Mapping[str, Any]) -> "FieldSpec":
        """Build from an entry of `dataset.fields`: a name, or a mapping.

        Raises:
            InputError: an unknown option or an invalid value.
        """
        options: dict[str, Any] = {"name": config} if isinstance(config, str) else dict(config)
        known = [field.name for field in fields(cls)]
        for key in options:
            if key not in known:
                raise InputError(f"dataset.fields: {key} is not an option of a field, {did_you_mean(key, known)}")
        name = options.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name) or name.startswith("__"):
            raise InputError(
                f"dataset.fields: '{name}' cannot be a field's name: use letters, digits, '.', '-' and '_'"
                " (column: names a raw column with other characters; numbers need quotes)"
            )
        if options.get("clip") is not None:
            options["clip"] = tuple(options["clip"])
        if options.get("where") is not None:
            options["where"] = _where(name, options["where"])
        spec = cls(**options)
        spec._check()
        return spec

    def _check(self) -> None:
        def refuse(option: str, expected: str) -> NoReturn:
            raise InputError(f"dataset.fields: {self.name}.{option} is {getattr(self, option)!r}: {expected}")

        choices: dict[str, tuple[str, ...]] = {
            "kind": KINDS,
            "pooling": POOLINGS,
            "scale": SCALES,
            "invalid": ("error", "missing"),
        }
        choices["transform"] = tuple(NUMBER_TRANSFORMS if self.kind == NUMBERS else TRANSFORMS)
        for option, known in choices.items():
            chosen = getattr(self, option)
            if chosen not in known and (chosen is not None or option != "transform"):
                refuse(option, did_you_mean(str(chosen), known))
        for option in ("width", "min_count", "max_values", "hash"):
            number = getattr(self, option)
            if number is not None and (type(number) is not int or not 1 <= number <= MAX_HASH):
                refuse(option, "expected a whole number from 1 on")
        if self.separator and self.width == 1 and self.kind == IDS:
            raise InputError(f"dataset.fields: {self.name} has a separator and width 1: a list needs a width from 2 on")
        if self.kind == SEQUENCES and self.width == 1:
            raise InputError(f"dataset.fields: {self.name} is a sequence of width 1: set its width, from 2 on")
        self._check_together(refuse)
        self._check_history(refuse)

    def _check_together(self, refuse: Callable[[str, str], NoReturn]) -> None:
        """Refuse options that do not fit the field's kind, or each other."""
        defaults = {field.name: field.default for field in fields(self)}
        for option, kinds in OPTIONS.items():
            if self.kind not in kinds and getattr(self, option) != defaults[option]:
                refuse(option, f"a field of kind {self.kind} has no such option")
        if self.kind == VECTORS and (self.file is None) != (self.of is None):
            refuse("of" if self.file else "file", "file and of come together: vectors of another field's values")
        if self.pooling != "sum" and self.width == 1:
            refuse("pooling", "only a list field (a width above 1) is pooled")
        for option in ("of", "min_count", "max_values"):
            if self.hash and getattr(self, option) is not None:
                refuse(option, "a field with hash has no vocabulary")
            if self.of and option != "of" and getattr(self, option) is not None:
                refuse(option, f"the vocabulary is that of {self.of}: set it there")
        limits = [limit for limit in self.clip or () if limit is not None]
        if self.clip is not None and (len(self.clip) != 2 or not limits or limits != sorted(limits)):
            refuse("clip", "expected [lowest, highest], one of which may be null")

    def _check_history(self, refuse: Callable[[str, str], NoReturn]) -> None:
        """Refuse options of a sequence that do not fit each other."""
        if (self.by is None) != (self.order is None):
            refuse(
                "by" if self.order else "order", "a history needs `by`, the user's column, and `order`, the moments'"
            )
        if self.where is not None and not self.from_log:
            refuse("where", "only a history of the log has it: set `by` and `order`")
        if self.gaps and not (self.from_log and self.aligned_with):
            refuse("gaps", "expected aligned_with, the history of the log whose times they are")
        if self.from_log and self.gaps == (self.of is not None):
            refuse("of", "a history has the values of a field (`of`), or `gaps: true`")
        if self.gaps and (self.hash or self.min_count or self.max_values or self.target):
            refuse("gaps", "the times have neither a vocabulary nor a target")


def _where(name: str, config: Any) -> dict[str, tuple[str, ...]]:
    """Column -> its texts, from `where: {label: 1, action: [click, buy]}`.

    Raises:
        InputError: no such mapping.
    """
    columns = config.items() if isinstance(config, Mapping) else ()
    texts = {column: value if isinstance(value, list | tuple) else (value,) for column, value in columns}
    wrong = any(not isinstance(value, str | int | float) for values in texts.values() for value in values)
    if wrong or not texts or not all(texts.values()):
        raise InputError(
            f"dataset.fields: {name}.where is {config!r}: expected {{label: 1}}, or {{COLUMN: [VALUE, ...]}}"
        )
    return {
        str(column): tuple(str(value).lower() for value in values)
        if column == LABEL_CONDITION
        else tuple(raw_texts(values))
        for column, values in texts.items()
    }
