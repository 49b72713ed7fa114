"""What conf/dataset/NAME.yaml says of a dataset, checked before anything is read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tf4ctr.data.readers import READERS
from tf4ctr.errors import InputError, did_you_mean

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class DatasetSpec:
    """One raw dataset and how to prepare it.

    Attributes:
        name: the dataset's name.
        raw_dir: folder of the raw files.
        prepared_dir: folder that preparation writes.
        fields: columns that become ids, in order.
        label: column of 0 and 1.
        group: column that gAUC groups by, None for no gAUC.
        min_count: training rows that a value needs to get a table row of its own.
        limit_rows: take only the first so many rows of each split, None for all.
        layouts: raw forms, the first whose files are all there is taken: `{reader, train, valid, test}`.
        rows: rows that each split must have, None where not known.
        source: where to get the raw files, told when they are missing.
        generator: arguments of `synthetic.generate` for a dataset that is drawn rather than read, else None.
        click_probability: raw column with the true click probability (drawn datasets), giving the best possible AUC.
    """

    name: str
    prepared_dir: Path
    fields: tuple[str, ...]
    label: str
    layouts: tuple[Mapping[str, str], ...]
    raw_dir: Path | None = None
    group: str | None = None
    min_count: int = 1
    limit_rows: int | None = None
    rows: Mapping[str, int] | None = None
    source: str = ""
    generator: Mapping[str, Any] | None = None
    click_probability: str | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "DatasetSpec":
        """Build from the resolved `dataset` node of a config; its `training` node (defaults for other groups) is not ours.

        Raises:
            InputError: an unknown or missing option, or a value that cannot be.
        """
        options = {key: value for key, value in config.items() if key != "training"}
        known = {field.name for field in fields(cls)}
        for key in options:
            if key not in known:
                raise InputError(f"dataset.{key} is not an option of a dataset: {did_you_mean(key, known)}")
        for key in ("name", "prepared_dir", "fields", "label", "layouts"):
            if not options.get(key):
                raise InputError(f"dataset.{key} is missing: every conf/dataset/NAME.yaml sets it")
        for key in ("raw_dir", "prepared_dir"):
            options[key] = Path(options[key]).expanduser().absolute() if options.get(key) else None
        options["fields"], options["layouts"] = tuple(options["fields"]), tuple(options["layouts"])
        spec = cls(**options)
        spec._check()
        return spec

    def _check(self) -> None:
        for field in self.fields:
            if not re.fullmatch(r"\w[\w.-]*", field) or field.startswith("__"):
                raise InputError(f"dataset.fields: '{field}' cannot be a field's name: use letters, digits, '.', '-' and '_'")
        if len(set(self.fields)) < len(self.fields):
            raise InputError(f"dataset.fields names a field twice: {', '.join(self.fields)}")
        if self.label in self.fields:
            raise InputError(f"dataset.label '{self.label}' is among dataset.fields: the network would see the answer")
        if self.click_probability in self.fields:
            raise InputError(
                f"dataset.click_probability '{self.click_probability}' is among dataset.fields: the network would see the answer"
            )
        for key in ("min_count", "limit_rows"):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"dataset.{key} is {value!r}: expected a whole number from 1 on")
        for layout in self.layouts:
            if set(layout) != {"reader", *SPLITS}:
                raise InputError(f"dataset.layouts: expected reader, train, valid and test, found {', '.join(layout)}")
            if layout["reader"] not in READERS:
                raise InputError(f"dataset.layouts: no reader '{layout['reader']}', {did_you_mean(layout['reader'], READERS)}")

    @property
    def columns(self) -> list[str]:
        """Raw columns to read: the label first, then the fields, then what else is named."""
        extra = [name for name in (self.group, self.click_probability) if name and name not in self.fields]
        return [self.label, *self.fields, *extra]

    def settings(self) -> dict[str, Any]:
        """All that shapes the prepared rows, and so tells one prepared dataset from another."""
        keys = ("name", "fields", "label", "group", "min_count", "limit_rows", "generator", "click_probability")
        return {key: list(value) if isinstance(value := getattr(self, key), tuple) else value for key in keys}

    def raw_files(self, folder: Path) -> tuple[str, dict[str, Path]]:
        """Return the reader's name and the file of each split for the first layout that `folder` has whole.

        Raises:
            InputError: no layout is whole; says which files are missing and where to get them.
        """
        for layout in self.layouts:
            files = {split: folder / layout[split] for split in SPLITS}
            if all(path.exists() for path in files.values()):
                return layout["reader"], files
        wanted = "\n".join(
            f"  {layout['reader']:8} "
            + ", ".join(f"{layout[s]} ({'found' if (folder / layout[s]).exists() else 'missing'})" for s in SPLITS)
            for layout in self.layouts
        )
        raise InputError(
            f"raw files of {self.name} not found in {folder}; expected one of\n{wanted}\n"
            f"{self.source.strip()}\nThen put them there, or name their folder with dataset.raw_dir=FOLDER"
        )
