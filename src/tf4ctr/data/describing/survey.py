"""What is in the columns of raw files: a sample says what to look for, then all rows are read.

Memory does not grow with the rows.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl
import polars_hash  # noqa: F401, registers the expressions' `nchash`

from tf4ctr.data import faults
from tf4ctr.data.describing import column_names
from tf4ctr.data.describing.sniffing import Source
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.numbers import Distribution
from tf4ctr.data.passes import BATCH_ROWS
from tf4ctr.data.readers import SHORT, as_text
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.data.splits import ALL
from tf4ctr.data.transforms import TRANSFORMS, finite, missing, moment

KEPT_VALUES = 2**14  # different values that are kept per column; a larger number of them is right to 1 %
HASHES = 2.0**64  # the number of different hashes
NAN = "NaN"  # the text of a float that is not a number
KEPT_WORDS = 20  # different texts that are kept of a column of numbers
NUMERIC = 0.5  # share of numbers in the sample of a column that may be one of numbers, at least
DATED = 0.99  # share of dates in the sample of a column of moments, at least
# separators between the values of one cell -> the share of texts that must have it
LIST_SEPARATORS = {"|": 0.01, "^": 0.01, "~": 0.01, ";": 0.05, ", ": 0.2, ",": 0.2, "#": 0.2, " ": 0.2}
PLAIN_SEPARATORS = ("|", "^", "~")  # titles and names do not have them
PHRASE_SEPARATORS = (";", ", ", ",")  # the values between them may have spaces
WORD = r"^[\w.:/-]+$"
CODE = r"^[\w.:/-]*\d[\w.:/-]*$"
PHRASE = r"^[\w.:/&'+-]+( [\w.:/&'+-]+)*$"
THOUSANDS = r"^[+-]?\d{1,3}(,\d{3})+(\.\d+)?$"  # a number such as 1,234.5
DECIMAL_COMMA = r"^[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?$"  # one such as 5,50 or 1.234,5
DECIMALS, WITH_COMMA = 0.95, 0.05  # share of such numbers, and of those with a comma, at least
REPEATED = 0.5  # share of different parts among the parts of lists, at most
REPEATED_PHRASES = 0.5  # share of the different phrases that are in several texts, at least
# texts that mean a missing value, in a column of numbers
NULL_WORDS = ("NULL", "null", "\\N", "NA", "N/A", "n/a", "nan", "NaN", "None", "none", "-", "?", "<NA>")
# forms of a moment that is written as a whole number
FORMS = {
    "YYYYMMDD": r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(([01]\d|2[0-3])([0-5]\d){0,2})?$",
    "YYMMDDHH": TRANSFORMS["hour_of_day"].pattern,
}


class Values:
    """The different values of a column: their number, and a uniform sample of them.

    The sample contains the values with the smallest hashes. A value of the sample is counted from
    its first row on, so its number of rows is exact. The number of values is exact up to
    `KEPT_VALUES`. Beyond, it is estimated from the largest hash that is kept (Bar-Yossef et al.,
    RANDOM 2002).
    """

    def __init__(self) -> None:
        schema = {"value": pl.String, "count": pl.Int64, "hash": pl.UInt64}
        self._kept, self._pending = pl.DataFrame(schema=schema), list[pl.DataFrame]()
        self._limit: int | None = None  # the largest hash that is kept, once values were dropped

    def add(self, counts: pl.DataFrame) -> None:
        """Add the different values of some rows and their `count`."""
        hashed = counts.with_columns(hash=pl.col("value").nchash.xxhash64())  # type: ignore[attr-defined]
        self._pending.append(hashed if self._limit is None else hashed.filter(pl.col("hash") <= self._limit))
        if sum(map(len, self._pending)) > KEPT_VALUES:
            self._merge()

    def _merge(self) -> None:
        merged = pl.concat([self._kept, *self._pending]).group_by("value", "hash").agg(pl.col("count").sum())
        merged = merged.select("value", "count", "hash")
        if len(merged) > KEPT_VALUES:
            merged = merged.bottom_k(KEPT_VALUES, by="hash")
            self._limit = int(merged["hash"].max())  # type: ignore[arg-type]
        self._kept, self._pending = merged, []

    @property
    def counts(self) -> pl.DataFrame:
        """`value` and `count` of the sample, the most frequent ones first."""
        self._merge()
        return self._kept.select("value", "count").sort("count", "value", descending=[True, False])

    @property
    def exact(self) -> bool:
        """Whether the sample contains every value."""
        self._merge()
        return self._limit is None

    @property
    def number(self) -> int:
        """How many different values there are."""
        if self.exact:
            return len(self._kept)
        return round((KEPT_VALUES - 1) / ((self._limit or 0) / HASHES))


class Guess(NamedTuple):
    """What a sample says about a column.

    Attributes:
        separator: between the values of one cell; None for single values.
        numeric: whether it may be a column of numbers.
        temporal: whether it may be a column of moments.
        increasing: share of rows whose moment is not before that of the row above.
        decimal_comma: whether it has numbers with a decimal comma, which are read as texts.
    """

    separator: str | None = None
    numeric: bool = False
    temporal: bool = False
    increasing: float = 0.0
    decimal_comma: bool = False


class Column:
    """The facts of one column, over any number of batches.

    Attributes:
        name, dtype, guess: of the column.
        rows, missing: rows, and those without a value.
        values: the different values; of a list, of its elements.
        lengths: number of values -> rows, of a list.
        numbers: the distribution of the numbers among the values.
        nans: missing rows that are NaN in a file of typed columns.
        empty: missing rows that are an empty list.
        fractions, padded: rows with a fraction, and with a leading zero as in 007.
        words: values that are no numbers -> rows; the rest beyond `KEPT_WORDS` is under "".
        moments: the distribution of the moments among the values.
        forms: form of `FORMS`, or `date` for a text -> rows.
    """

    def __init__(self, name: str, dtype: pl.DataType, guess: Guess) -> None:
        self.name, self.dtype, self.guess = name, dtype, guess
        self.rows, self.missing, self.nans, self.empty, self.values = 0, 0, 0, 0, Values()
        self.lengths: Counter[int] = Counter()
        self.numbers, self.moments = Distribution("x"), Distribution("x")
        self.fractions, self.padded = 0, 0
        self.words: Counter[str] = Counter()
        self.forms: Counter[str] = Counter()

    @property
    def is_list(self) -> bool:
        """Whether a row has several values."""
        return isinstance(self.dtype, pl.List | pl.Array) or self.guess.separator is not None

    @property
    def present(self) -> int:
        """Rows with a value."""
        return self.rows - self.missing

    @property
    def distinct(self) -> int:
        """How many different values there are."""
        return self.values.number if self.is_list else min(self.values.number, self.present)

    def query(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """The query for one batch: its different values (or lists), and their `count`."""
        text = as_text(pl.col(self.name), self.dtype)
        if self.dtype.is_float():
            text = pl.when(pl.col(self.name).is_nan()).then(pl.lit(NAN)).otherwise(text)
        if self.guess.separator is not None:
            text = text.str.split(self.guess.separator)
        if self.is_list:
            text = text.list.drop_nulls().list.eval(pl.element().filter(pl.element() != ""))
        return rows.select(value=text).group_by("value").agg(count=pl.len().cast(pl.Int64))

    def add(self, counts: pl.DataFrame) -> None:
        """Add the result of `query` for one batch."""
        self.rows += int(counts["count"].sum())
        if self.is_list:
            lengths = counts.select(pl.col("value").list.len().fill_null(0), "count")
            self.lengths.update(dict(lengths.group_by("value").agg(pl.col("count").sum()).rows()))
            self.missing = self.lengths[0]
            self.empty += _rows_of(counts, pl.col("value").list.len() == 0)
            counts = counts.explode("value").drop_nulls().group_by("value").agg(pl.col("count").sum())
        else:
            missing = pl.col("value").is_null()
            if self.dtype.is_float():
                self.nans += _rows_of(counts, pl.col("value") == NAN)
                missing |= pl.col("value") == NAN
            self.missing += _rows_of(counts, missing)
            counts = counts.filter(~missing)
        self.values.add(counts)
        if self.guess.numeric:
            self._add_numbers(counts)
        if self.guess.temporal:
            self._add_moments(counts)

    def _add_numbers(self, counts: pl.DataFrame) -> None:
        numbers = counts.with_columns(x=finite(pl.col("value")))
        self.numbers.add(numbers.select("x", "count").drop_nulls())
        self.fractions += _rows_of(numbers, pl.col("x") != pl.col("x").floor())
        self.padded += _rows_of(numbers, pl.col("value").str.contains(r"^0\d+$"))
        for word, count in numbers.filter(pl.col("x").is_null()).select("value", "count").rows():
            self.words[word if word in self.words or len(self.words) < KEPT_WORDS else ""] += count

    def _add_moments(self, counts: pl.DataFrame) -> None:
        moments = counts.with_columns(x=moment(pl.col("value")))
        self.moments.add(moments.select("x", "count").drop_nulls())
        for form, pattern in FORMS.items():
            self.forms[form] += _rows_of(moments, pl.col("value").str.contains(pattern))
        self.forms["date"] += _rows_of(moments, pl.col("x").is_not_null() & finite(pl.col("value")).is_null())


def _rows_of(counts: pl.DataFrame, condition: pl.Expr) -> int:
    return int(counts.filter(condition)["count"].sum())


class Survey(NamedTuple):
    """The result: all columns by name, the number of rows, a sample of them as texts, the files."""

    columns: dict[str, Column]
    rows: int
    sample: pl.DataFrame
    source: Source

    def first_missing(self, name: str) -> str:
        """Where the first row without a value in a column is, as in `line 188 of may.csv`."""
        raw = self.source.raw
        for path in self.source.paths:
            rows = raw.rows([path], self.source.columns).with_row_index("__row").filter(missing(pl.col(name)))
            first = rows.select("__row").head(1).collect()
            if len(first):
                return f"{raw.unit} {raw.line_of(path, first.item())} of {path.name}"
        raise ValueError(f"each row has a value in column '{name}'")


def read(
    source: Source, sample_rows: int, time: str | None = None, tick: Callable[[int], None] = lambda rows: None
) -> Survey:
    """Read a sample of the rows, then all of them.

    Args:
        source: the files.
        sample_rows: rows of the sample, the first ones of each file.
        time: a column that is known to have moments.
        tick: gets the rows of each batch that was read.

    Raises:
        InputError: a file that cannot be read to its end, or with invalid rows.
    """
    # a dataset of these columns, for the functions that report invalid lines
    fields = tuple(FieldSpec(name) for name in source.columns)
    spec = DatasetSpec("", Path(), fields, source.columns[0], ())
    rows = source.raw.rows(source.paths, source.columns, source.columns)
    dtypes = rows.collect_schema()
    short = 0
    try:
        sample = _sample(source, sample_rows)
        columns = {name: Column(name, dtypes[name], guess(sample[name], name == time)) for name in source.columns}
        for batch in rows.collect_batches(chunk_size=BATCH_ROWS, engine="streaming"):
            queries = [column.query(batch.lazy()) for column in columns.values()]
            for column, counts in zip(columns.values(), pl.collect_all(queries), strict=True):
                column.add(counts)
            short += int(batch[SHORT].sum())
            tick(len(batch))
    except (pl.exceptions.ComputeError, pl.exceptions.SchemaError, OSError) as error:
        faults.refuse_unreadable(spec, source.raw, ALL, error)
    if short:
        faults.refuse_short_rows(spec, source.raw, ALL)
    return Survey(columns, columns[source.columns[0]].rows, sample, source)


def _sample(source: Source, rows: int) -> pl.DataFrame:
    """The first rows of each file, as texts or lists of texts."""
    share = -(-rows // len(source.paths))
    frames = [source.raw.rows([path], source.columns).select(source.columns).head(share) for path in source.paths]
    return pl.concat(pl.collect_all(frames, engine="streaming"))


def guess(sample: pl.Series, is_time: bool = False) -> Guess:
    """Say what a column of texts, or of lists of texts, may be.

    Args:
        sample: some of its values; those of `NULL_WORDS` are left aside.
        is_time: whether it is known to have moments.
    """
    if isinstance(sample.dtype, pl.List):
        return Guess(numeric=_share(sample.explode(), finite) >= NUMERIC)
    texts = sample.drop_nulls()
    texts, named = texts.filter(~texts.is_in(NULL_WORDS)), is_time or column_names.is_time(sample.name)
    if not len(texts):
        return Guess(numeric=True, temporal=named)
    share = _share(texts, finite)
    numeric, dated = share >= NUMERIC, share < NUMERIC and _share(texts, moment) >= DATED
    if dated or is_time or (numeric and named):
        moments = texts.to_frame().select(moment(pl.col(sample.name))).to_series()
        increasing = (moments.diff().drop_nulls() >= 0).mean()
        return Guess(numeric=numeric, temporal=True, increasing=float(increasing or 0))  # type: ignore[arg-type]
    if has_decimal_commas(texts):
        return Guess(numeric=numeric, decimal_comma=True)
    separator = None if share == 1 else list_separator(texts)
    if separator is not None:
        numeric = _share(texts.str.split(separator).explode(), finite) >= NUMERIC
    return Guess(separator, numeric)


def _share(texts: pl.Series, parsed: Callable[[pl.Expr], pl.Expr]) -> float:
    frame = texts.drop_nulls().to_frame()
    return float(frame.select(parsed(pl.col(texts.name)).is_not_null().mean()).item() or 0)


def has_decimal_commas(texts: pl.Series) -> bool:
    """Whether texts are numbers such as 5,50, and not lists or numbers with thousands."""
    numbers, thousands = texts.str.contains(DECIMAL_COMMA), texts.str.contains(THOUSANDS)
    commas = numbers & ~thousands & texts.str.contains(",", literal=True)
    return int(numbers.sum()) >= DECIMALS * len(texts) and int(commas.sum()) >= WITH_COMMA * len(texts)


def list_separator(texts: pl.Series) -> str | None:
    """The separator of texts that often hold several values; None if they hold one.

    A separator must be in the share of texts that `LIST_SEPARATORS` says. The number of parts must
    vary, or be at least three. If titles have the separator too, the parts must be words that occur
    several times. At a space they must have a digit, because names of places have spaces. At a
    comma they may be phrases, if most of these are in several different texts.
    """
    shares = {}
    texts = texts.filter(~texts.str.contains(THOUSANDS))
    for separator, needed in LIST_SEPARATORS.items():
        parts = texts.str.split(separator).list.eval(pl.element().filter(pl.element() != ""))
        lengths = parts.list.len()
        several = parts.filter(lengths > 1)
        share = len(several) / max(1, len(texts))
        if share < needed or (lengths.n_unique() == 1 and lengths[0] < 3):
            continue
        if (
            separator in PLAIN_SEPARATORS
            or _repeated_words(several.explode(), CODE if separator == " " else WORD)
            or (separator in PHRASE_SEPARATORS and _repeated_phrases(several.unique().explode()))
        ):
            shares[separator] = share
    return max(shares, key=lambda separator: (separator in PLAIN_SEPARATORS, shares[separator]), default=None)


def _repeated_words(parts: pl.Series, pattern: str) -> bool:
    return bool(parts.str.contains(pattern).all()) and parts.n_unique() <= REPEATED * len(parts)


def _repeated_phrases(parts: pl.Series) -> bool:
    """Whether parts of different texts are phrases that most often occur again.

    The titles and names of places in `Third Man, The` and `Paris, France` do not.
    """
    repeated = parts.value_counts(name="count")["count"] > 1
    return bool(parts.str.contains(PHRASE).all()) and int(repeated.sum()) >= REPEATED_PHRASES * len(repeated)
