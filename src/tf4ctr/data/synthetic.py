"""Click logs drawn from a known model, so that the best possible AUC is known.

A row draws one value per field. Value k of a field has a probability proportional to
1 / (k + 1) ** exponent (a power law). The row's score is

    s = sum_f w_f[x_f] + sum_(f, g) in PAIRS a_fg[x_f] . b_fg[x_g]

where w, a and b are drawn once from the seed, and s is standardised (mean 0, standard deviation
1). The field `region` makes a row easy or hard:

    p = sigmoid(BIAS + STEEPNESS[region] * s)      click ~ Bernoulli(p)

In the easy region the score nearly decides the click, in the hard region it has little influence.
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


class ClickModel:
    """The weights of the click model for one seed."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 0])
        self.popularity = {
            name: (p := 1.0 / np.arange(1, size + 1) ** exponent) / p.sum() for name, (size, exponent) in FIELDS.items()
        }
        self.weight = {name: rng.normal(size=size) for name, (size, _) in FIELDS.items() if name != "region"}
        self.factors = {
            (f, g): (rng.normal(size=(FIELDS[f][0], PAIR_RANK)), rng.normal(size=(FIELDS[g][0], PAIR_RANK)))
            for f, g in PAIRS
        }
        sample = self._values(rng, SAMPLE_ROWS)
        self.mean, self.deviation = 0.0, 1.0
        score = self._score(sample)
        self.mean, self.deviation = float(score.mean()), float(score.std())

    def draw(self, rng: np.random.Generator, rows: int) -> pl.DataFrame:
        """Draw `rows` rows: one column per field, `click_probability` and `click` (0 or 1)."""
        values = self._values(rng, rows)
        probability = 1.0 / (1.0 + np.exp(-(BIAS + np.take(STEEPNESS, values["region"]) * self._score(values))))
        click = (rng.random(rows) < probability).astype(np.int8)
        return pl.DataFrame({**values, "click_probability": probability, "click": click})

    def _values(self, rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
        return {
            name: np.searchsorted(np.cumsum(p)[:-1], rng.random(rows), side="right").astype(np.int32)
            for name, p in self.popularity.items()
        }

    def _score(self, values: dict[str, np.ndarray]) -> np.ndarray:
        first_order = sum(weight[values[name]] for name, weight in self.weight.items())
        second_order = sum((a[values[f]] * b[values[g]]).sum(1) for (f, g), (a, b) in self.factors.items())
        return (first_order + second_order - self.mean) / self.deviation


def generate(
    folder: Path, train: int, valid: int, test: int, seed: int, tick: Callable[[int], None] = lambda rows: None
) -> None:
    """Write `folder/{train,valid,test}/part-*.parquet`, one chunk at a time.

    Args:
        folder: created if it does not exist; must not contain the splits yet.
        train, valid, test: rows of each split.
        seed: of the click model and of the rows. The rows of one split do not depend on the sizes
            of the others.
        tick: called with the number of rows of each chunk once it is written.
    """
    model = ClickModel(seed)
    for split, rows in {"train": train, "valid": valid, "test": test}.items():
        (folder / split).mkdir(parents=True)
        for part, start in enumerate(range(0, rows, CHUNK)):
            rng = np.random.default_rng([seed, SPLIT_NUMBER[split], part])
            count = min(CHUNK, rows - start)
            model.draw(rng, count).write_parquet(folder / split / f"part-{part:05}.parquet")
            tick(count)
