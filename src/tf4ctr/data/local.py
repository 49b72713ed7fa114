"""engine=polars: the two passes of preparation on this machine."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from tf4ctr.data import faults
from tf4ctr.data.passes import SPLIT, Known, Moments, Step, Tally, Tick, open_rows, write_events, write_parts
from tf4ctr.data.raw_files import RawFiles
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.data.splits import SPLITS


class LocalEngine:
    """An `Engine` of this machine's polars.

    Raises:
        InputError: a file without the columns that the dataset needs.
    """

    def __init__(self, spec: DatasetSpec, raw: RawFiles, step: Step) -> None:
        self.spec, self.raw = spec, raw
        self.rows = {split: open_rows(spec, raw, split) for split in raw.files}

    def count(self, split: str, tally: Tally | Moments, tick: Tick) -> None:
        """First pass.

        Raises:
            InputError: a file that cannot be read to its end.
        """
        try:
            tally.count(self.rows[split], tick)
        except (pl.exceptions.ComputeError, pl.exceptions.SchemaError, OSError) as error:
            faults.refuse_unreadable(self.spec, self.raw, split, error)

    def events(self, known: Known, rows: Mapping[str, int], folder: Path, step: Step) -> None:
        """The rows for the linking of histories."""
        for split, raw_rows in self.rows.items():
            with step(f"order {split}", rows[split]) as tick:
                write_events(self.spec, raw_rows, known, sum(rows.values()), folder / split, tick)

    def encode(self, known: Known, rows: Mapping[str, int], folder: Path, step: Step) -> None:
        """Second pass: one parquet file per split."""
        for split, raw_rows in self.rows.items():
            with step(f"write {split}", rows.get(split, sum(rows.values()))) as tick:
                write_parts(self.spec, raw_rows, known, split, folder / "parts", tick)
        for number, split in enumerate(SPLITS):
            (part,) = (folder / "parts" / f"{SPLIT}={number}").iterdir()
            part.rename(folder / f"{split}.parquet")
        shutil.rmtree(folder / "parts")
