"""How raw files without splits are split by a column."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, cast

import polars as pl

from tf4ctr.data.numbers import Distribution
from tf4ctr.data.transforms import moment
from tf4ctr.errors import InputError, did_you_mean

SPLITS = ("train", "valid", "test")
ALL = "all"  # in place of the splits, for raw files without splits
SECONDS = (1e9, 2e9)  # since 1970, from 2001 to 2033: larger whole numbers are dates such as 2026052514
EXACT = 2.0**53  # floats below this hold whole numbers exactly


def raw_texts(values: Iterable[Any]) -> list[str]:
    """The texts in the raw data that the values of a yaml stand for.

    A whole number is also the other spelling, 4 and 4.0, because csv files have what wrote them and
    typed files become 4. true is also True and TRUE. A text in quotes stands for itself alone.
    """
    return list(dict.fromkeys(text for value in values for text in _spellings(value)))


def _spellings(value: Any) -> list[str]:
    text = str(value)
    if isinstance(value, bool):
        return [text.lower(), text, text.upper()]
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < EXACT):
        return [f"{int(value)}", f"{int(value)}.0"]
    return [text]


@dataclass(frozen=True)
class SplitSpec:
    """How files without splits are split by a column.

    Attributes:
        by: the raw column.
        valid, test: shares of the rows, the latest ones in the column's order; None with `values`.
        values: split -> the values of the column that belong to it; None with shares.
        moments: where validation and test begin, once the column was read; see `at`.
    """

    by: str
    valid: float | None = None
    test: float | None = None
    values: Mapping[str, list[str]] | None = None
    moments: tuple[float, float] | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "SplitSpec":
        """Build from `dataset.split`.

        Raises:
            InputError: neither shares nor values of every split; values that are no list, or that
                are in two splits.
        """
        options, known = dict(config), ("by", "valid", "test", "values")
        for key in options:
            if key not in known:
                raise InputError(f"dataset.split: {key} is not an option, {did_you_mean(key, known)}")
        if options.get("values"):
            options["values"] = _values(options["values"])
        split = cls(**options) if options.get("by") else None
        if split is None or not (split._by_values() or split._by_shares()):
            raise InputError(
                f"dataset.split is {dict(config)}: expected {{by: COLUMN, valid: 0.1, test: 0.1}} for the latest rows,"
                " or {by: COLUMN, values: {train: [...], valid: [...], test: [...]}}"
            )
        return split

    def _by_values(self) -> bool:
        return bool(self.values) and self.valid is self.test is None and set(self.values or ()) == set(SPLITS)

    def _by_shares(self) -> bool:
        shares = (self.valid, self.test)
        numbers = all(isinstance(share, float) and 0 < share < 1 for share in shares)
        return self.values is None and numbers and sum(shares) < 1  # type: ignore[arg-type]

    @property
    def ready(self) -> bool:
        """Whether it is known where it cuts."""
        return self.values is not None or self.moments is not None

    def at(self, distribution: Distribution) -> "SplitSpec":
        """The split with the moments where it cuts; rows of one moment stay together."""
        valid, test = cast(float, self.valid), cast(float, self.test)
        first, second = distribution.after([1 - valid - test, 1 - test])
        return replace(self, moments=(first, second))

    def number(self) -> pl.Expr:
        """Raw column -> 0 train, 1 valid, 2 test; null where the value belongs to none."""
        if self.values is not None:
            numbers = {value: SPLITS.index(split) for split, values in self.values.items() for value in values}
            return pl.col(self.by).replace_strict(numbers, default=None, return_dtype=pl.Int8)
        assert self.moments is not None
        value = moment(pl.col(self.by))
        number = pl.sum_horizontal(value >= first for first in self.moments).cast(pl.Int8)
        return pl.when(value.is_not_null()).then(number)


def _values(config: Any) -> dict[str, list[str]]:
    """The texts of each split's values.

    Raises:
        InputError: the values of a split are no list; a value is in two splits.
    """
    if not isinstance(config, Mapping):
        raise InputError(f"dataset.split.values is {config!r}: expected {{train: [...], valid: [...], test: [...]}}")
    texts: dict[str, list[str]] = {}
    for split, values in config.items():
        if not isinstance(values, list | tuple):
            raise InputError(
                f"dataset.split.values.{split} is {values!r}: expected a list of values in brackets, as in [{values}]"
            )
        texts[split] = raw_texts(values)
        for other in texts:
            twice = [text for text in texts[split] if other != split and text in texts[other]]
            if twice:
                raise InputError(
                    f"dataset.split.values: '{twice[0]}' is in {other} and in {split}: a row belongs to one split"
                )
    return texts


def moment_text(moment: float) -> str:
    """A moment as a user reads it: with the date if it is in (milli)seconds since 1970."""
    for unit in (1, 1000):
        if SECONDS[0] < moment / unit < SECONDS[1]:
            return f"{moment:.15g} ({datetime.fromtimestamp(moment / unit, UTC):%Y-%m-%d %H:%M:%S} UTC)"
    return f"{moment:.15g}"
