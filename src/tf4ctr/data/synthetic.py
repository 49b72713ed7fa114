"""Click logs drawn from a known model, so that the best possible AUC is known.

A row draws one value per field. Value k of a field has a probability proportional to
1 / (k + 1) ** exponent (a power law). The row's score is

    s = sum_f w_f[x_f] + sum_(f, g) in PAIRS a_fg[x_f] . b_fg[x_g]

where w, a and b are drawn once from the seed, and s is standardised (mean 0, standard deviation
1). The field `region` makes a row easy or hard:

    p = sigmoid(BIAS + STEEPNESS[region] * s)      click ~ Bernoulli(p)

In the easy region the score nearly decides the click, in the hard region it has little influence.

With `numbers`, a row also has numbers and a list, see `Extras`. Their effect e is also
standardised, and the score becomes

    s' = sqrt(1 - SHARE) * s + sqrt(SHARE) * e

so that SHARE of the score's variance is theirs. A model without them stays far below the best
possible AUC.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

# The constants below define the dataset: another value draws other rows from the same seed.
# Sizes and skew are those of a small click log.
# field: (vocabulary size, exponent of the power law)
FIELDS = {
    "user": (400, 0.9),
    "item": (300, 1.0),
    "category": (20, 0.8),
    "site": (60, 1.1),
    "device": (6, 0.9),
    "hour": (24, 0.3),
    "position": (8, 0.7),
    "region": (2, 0.0),
}
# pairs of fields that interact: what a model of crosses learns beyond the single fields
PAIRS = (("user", "category"), ("category", "hour"), ("device", "site"), ("position", "item"))
PAIR_RANK = 2  # size of the vectors a and b
STEEPNESS = (3.0, 0.7)  # easy, hard
BIAS = -1.0  # gives a click rate of about one third
SAMPLE_ROWS = 100_000  # rows that give the mean and deviation of the score
CHUNK = 500_000  # rows drawn at a time, from a seed of their own; bounds the memory
SPLIT_NUMBER = {"train": 1, "valid": 2, "test": 3}  # each split has its own random numbers; 0 is the model

# with `numbers`
SHARE = 0.5  # of the score's variance: as much as the ids have
PRICE = (3.0, 1.0)  # mean and deviation of ln(price): the median is about 20
AGES = (18, 80)  # youngest and oldest
MISSING_AGES = 0.2  # share of rows
MISSING_AGE = -1.5  # effect of a missing age; that of the mean age is 0, so the mean cannot replace it
MAX_TAGS = 4  # tags per row, 0 to this
TAGS = (30, 0.8)  # vocabulary size, exponent of the power law


class ClickModel:
    """The weights of the click model for one seed; with `numbers` also those of `Extras`."""

    def __init__(self, seed: int, numbers: bool = False) -> None:
        rng = np.random.default_rng([seed, 0])
        self.popularity = {name: _power_law(size, exponent) for name, (size, exponent) in FIELDS.items()}
        self.weight = {name: rng.normal(size=size) for name, (size, _) in FIELDS.items() if name != "region"}
        self.factors = {
            (f, g): (rng.normal(size=(FIELDS[f][0], PAIR_RANK)), rng.normal(size=(FIELDS[g][0], PAIR_RANK)))
            for f, g in PAIRS
        }
        sample = self._values(rng, SAMPLE_ROWS)
        self.mean, self.deviation = 0.0, 1.0
        score = self._score(sample)
        self.mean, self.deviation = float(score.mean()), float(score.std())
        self.extras = Extras(rng) if numbers else None  # drawn last: the weights of the ids stay the same

    def draw(self, rng: np.random.Generator, rows: int) -> pl.DataFrame:
        """Draw `rows` rows.

        Returns:
            One column per field, those of `Extras`, `click_probability` and `click` (0 or 1).
        """
        values = self._values(rng, rows)
        drawn, score = pl.DataFrame(values), self._score(values)
        if self.extras:
            extras = self.extras.draw(rng, rows)
            drawn, score = drawn.hstack(extras), mixed(score, self.extras.effect(extras))
        probability = click_probability(score, values["region"])
        click = (rng.random(rows) < probability).astype(np.int8)
        return drawn.with_columns(click_probability=probability, click=click)

    def _values(self, rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
        return {name: _pick(p, rng.random(rows)) for name, p in self.popularity.items()}

    def _score(self, values: dict[str, np.ndarray]) -> np.ndarray:
        first_order = sum(weight[values[name]] for name, weight in self.weight.items())
        second_order = sum((a[values[f]] * b[values[g]]).sum(1) for (f, g), (a, b) in self.factors.items())
        return (first_order + second_order - self.mean) / self.deviation


class Extras:
    """Columns that are not single ids, and their effect on the click.

    - `price` is log-normal, with two decimals. Its effect is (1 - z ** 2) / sqrt(2), where z is the
      standardised logarithm: prices in the middle are clicked most.
    - `age` is a whole number, null in some rows. Its effect is linear; a null has its own effect.
    - `noise` is normal and has no effect.
    - `tags` is a list of ids, which may be empty and may repeat. Their effects are added.

    Each of the three effects has a variance of about 1.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.popularity = _power_law(*TAGS)
        self.tag_effect = rng.normal(size=TAGS[0]) / np.sqrt(MAX_TAGS / 2)  # a row has MAX_TAGS / 2 on average
        self.mean, self.deviation = 0.0, 1.0
        effect = self.effect(self.draw(rng, SAMPLE_ROWS))
        self.mean, self.deviation = float(effect.mean()), float(effect.std())

    def draw(self, rng: np.random.Generator, rows: int) -> pl.DataFrame:
        """Draw `price`, `age`, `noise` and `tags` of `rows` rows."""
        columns = {
            "price": rng.lognormal(*PRICE, rows).round(2),
            "age": rng.integers(*AGES, rows, dtype=np.int32, endpoint=True),
            "noise": rng.normal(size=rows),
            "tags": _pick(self.popularity, rng.random((rows, MAX_TAGS))),
        }
        missing = pl.Series(rng.random(rows) < MISSING_AGES)
        count = pl.Series(rng.integers(0, MAX_TAGS, rows, endpoint=True))
        return pl.DataFrame(columns).with_columns(
            age=pl.when(~missing).then("age"), tags=pl.col("tags").arr.to_list().list.head(pl.lit(count))
        )

    def effect(self, extras: pl.DataFrame) -> np.ndarray:
        """The effect of rows of `draw`, standardised: mean 0, standard deviation 1; [rows]."""
        price = (1 - ((np.log(extras["price"].to_numpy()) - PRICE[0]) / PRICE[1]) ** 2) / np.sqrt(2)
        ages = np.arange(AGES[0], AGES[1] + 1)
        age = ((extras["age"] - ages.mean()) / ages.std()).fill_null(MISSING_AGE)
        row = np.repeat(np.arange(len(extras)), extras["tags"].list.len())
        tags = np.bincount(row, self.tag_effect[extras["tags"].explode().drop_nulls()], minlength=len(extras))
        return (price + age.to_numpy() + tags - self.mean) / self.deviation


def mixed(score: np.ndarray, effect: np.ndarray) -> np.ndarray:
    """The score of the ids and the effect of the other columns -> the score of the row."""
    return np.sqrt(1 - SHARE) * score + np.sqrt(SHARE) * effect


def click_probability(score: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The probability of a click, from the standardised score and the region of each row."""
    return 1.0 / (1.0 + np.exp(-(BIAS + np.take(STEEPNESS, region) * score)))


def _power_law(size: int, exponent: float) -> np.ndarray:
    """Probabilities of the values 0, 1, ..., size - 1."""
    p = 1.0 / np.arange(1, size + 1) ** exponent
    return p / p.sum()


def _pick(probabilities: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Values with these probabilities, from numbers that are uniform in [0, 1), of any shape."""
    return np.searchsorted(np.cumsum(probabilities)[:-1], uniform, side="right").astype(np.int32)


def generate(
    folder: Path,
    train: int,
    valid: int,
    test: int,
    seed: int,
    tick: Callable[[int], None] = lambda rows: None,
    numbers: bool = False,
) -> None:
    """Write `folder/{train,valid,test}/part-*.parquet`, one chunk at a time.

    Args:
        folder: created if it does not exist; must not contain the splits yet.
        train, valid, test: rows of each split.
        seed: of the click model and of the rows. The rows of one split do not depend on the sizes
            of the others.
        tick: called with the number of rows of each chunk once it is written.
        numbers: whether the rows have the columns of `Extras`, and their effect. The ids are the
            same with and without them, the clicks are not.
    """
    model = ClickModel(seed, numbers)
    for split, rows in {"train": train, "valid": valid, "test": test}.items():
        (folder / split).mkdir(parents=True)
        for part, start in enumerate(range(0, rows, CHUNK)):
            rng = np.random.default_rng([seed, SPLIT_NUMBER[split], part])
            count = min(CHUNK, rows - start)
            model.draw(rng, count).write_parquet(folder / split / f"part-{part:05}.parquet")
            tick(count)
