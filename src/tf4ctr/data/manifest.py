"""manifest.json of a prepared dataset: what it was made from, and whether it is still current."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from tf4ctr.data.spec import DatasetSpec
from tf4ctr.data.splits import ALL, SPLITS
from tf4ctr.errors import InputError
from tf4ctr.files import write_whole

log = logging.getLogger(__name__)

FORMAT = 5  # of the prepared folder; folders of another format are prepared again
NAME = "manifest.json"
VALUES_AT_ONCE = 1 << 18  # of a field that are hashed as one text


def write_manifest(folder: Path, spec: DatasetSpec, contents: dict[str, Any]) -> None:
    """Write `folder/manifest.json`: format, dataset and settings, then `contents`."""
    manifest = {"format": FORMAT, "dataset": spec.name, "settings": spec.settings(), **contents}
    write_whole(folder / NAME, json.dumps(manifest, indent=2) + "\n")


def digest_of(spec: DatasetSpec, splits: Mapping[str, Mapping[str, Any]], values: Mapping[str, pl.Series]) -> str:
    """A hash that tells prepared datasets with other rows or other ids apart.

    It is of the settings, the moments of a split by time, rows and click rate of each split, and
    the known values; other rows with all these the same are not seen. The times and folders of raw
    files are not in it: the same files on another machine have the same hash.

    Args:
        spec: the dataset.
        splits: `rows` and `click_rate` of each split.
        values: the known values of each field.
    """
    moments = spec.split.moments if spec.split else None
    counts = {name: [split["rows"], split["click_rate"]] for name, split in splits.items()}
    facts = [spec.settings(), moments, counts]
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True, default=str).encode(), digest_size=16)
    for name, known in sorted(values.items()):
        digest.update(f"\n{name} {len(known)}\n".encode())
        for start in range(0, len(known), VALUES_AT_ONCE):
            digest.update("\n".join(known.slice(start, VALUES_AT_ONCE)).encode())
    return digest.hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read `folder/manifest.json`.

    Returns:
        settings, raw files, vocabulary sizes, the best possible AUC where it is known, warnings,
        and for each split rows, click rate and the share of unknown values.
    """
    return json.loads((folder / NAME).read_text())


def is_current(spec: DatasetSpec, folder: Path) -> bool:
    """Whether `folder` was prepared from these raw files with these settings; logs why it was not.

    Raises:
        InputError: the folder exists and is not a prepared dataset.
    """
    if not folder.exists():
        return False
    if not (folder / NAME).exists():
        raise InputError(
            f"{folder} exists and is not a prepared dataset (no {NAME}):"
            " name another folder with dataset.prepared_dir=FOLDER, or remove it"
        )
    manifest = read_manifest(folder)
    if manifest["format"] != FORMAT:
        log.info("%s was prepared by another version: preparing again", folder)
        return False
    # through JSON, so that both sides have the same types
    wanted = json.loads(json.dumps(spec.settings()))
    kept = manifest["settings"]
    if changed := _changes(kept, wanted):
        log.info("%s was prepared with other settings (%s): preparing again", folder, "; ".join(changed))
        return False
    if spec.generator is None and not _same_raw_files(spec, manifest):
        return False
    log.info("using the prepared dataset %s", folder)
    return True


def _changes(kept: Mapping[str, Any], wanted: Mapping[str, Any], above: str = "") -> list[str]:
    """What differs between two settings: KEY: BEFORE -> NOW. Of fields, what differs in them."""
    changes = []
    for key in dict.fromkeys((*wanted, *kept)):  # an option that is no longer set is a change, too
        before, now = kept.get(key), wanted.get(key)
        if before == now:
            continue
        earlier, later = _by_name(before), _by_name(now)
        if earlier and later:
            changes += _changes(earlier, later, f"{above}{key}.") or [f"{above}{key}: another order"]
        elif isinstance(before, Mapping) and isinstance(now, Mapping):
            changes += _changes(before, now, f"{above}{key}.")
        elif isinstance(before, Mapping) or isinstance(now, Mapping):
            changes.append(f"{above}{key}: {'new' if before is None else 'removed' if now is None else 'another one'}")
        else:
            changes.append(f"{above}{key}: {before} -> {now}")
    return changes


def _by_name(value: Any) -> dict[str, Any]:
    """A list of fields as name -> field; empty if it is none."""
    if not isinstance(value, list) or not all(isinstance(part, Mapping) and "name" in part for part in value):
        return {}
    return {part["name"]: part for part in value}


def _same_raw_files(spec: DatasetSpec, manifest: dict[str, Any]) -> bool:
    """Whether the raw files are those of the manifest, or are gone.

    Raises:
        InputError: there are none, and those of the manifest are still there: the folder or the
            file names of the dataset are other ones now, or misspelt.
    """
    try:
        fingerprint = spec.raw_files(raw_dir(spec)).fingerprint()
    except InputError as error:
        earlier = Path(manifest["raw_dir"])
        names = [name for split in (*SPLITS, ALL) for name, *_ in manifest["raw"].get(split, ())]
        if all((earlier / name).exists() for name in names):
            raise InputError(
                f"{error}\n{spec.prepared_dir} has what was prepared from {earlier}. To use that, set"
                f" dataset.raw_dir={earlier}, and the file names of `layouts` as they were"
            ) from error
        log.warning("no raw files in %s: using what was prepared from %s", spec.raw_dir, earlier)
        return True
    if fingerprint != manifest["raw"]:
        log.info("the raw files of %s have changed: preparing again", spec.name)
        return False
    return True


def raw_dir(spec: DatasetSpec) -> Path:
    """The folder of the raw files.

    Raises:
        InputError: it is not set.
    """
    if spec.raw_dir is None:
        raise InputError(f"dataset.raw_dir is not set: name the folder of {spec.name}'s raw files")
    return spec.raw_dir
