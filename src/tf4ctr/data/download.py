"""Fetch raw files that may be fetched, with resume, progress and checksum; what is not whole is not left under its name."""

import hashlib
import logging
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from tf4ctr.data.spec import DatasetSpec
from tf4ctr.errors import InputError

log = logging.getLogger(__name__)

CHUNK = 2**20


def fetch(spec: DatasetSpec) -> None:
    """Download what `dataset.download` names into the raw folder, unless it is there already.

    `dataset.download` holds either `hub`, a dataset on the Hugging Face hub with an archive of its own name, or `url`, an archive;
    `md5` of its files by name (of the archive itself where it is named); and `unpack`, the members to take, where not those of `md5`.

    Raises:
        InputError: the dataset must be fetched by hand, the network or the server does not answer, or a checksum is another.
    """
    if spec.raw_dir is None or spec.download is None:
        raise InputError(
            f"{spec.name} cannot be downloaded by itself.\n{spec.source.strip()}\nThen put the files into {spec.raw_dir}"
        )
    sums = spec.download.get("md5", {})
    members = spec.download.get("unpack") or list(sums)
    if all((spec.raw_dir / Path(member).name).exists() for member in members):
        log.info("%s is there already: %s", ", ".join(Path(member).name for member in members), spec.raw_dir)
        return
    spec.raw_dir.mkdir(parents=True, exist_ok=True)
    archive = (
        _from_hub(spec, spec.download["hub"]) if "hub" in spec.download else _from_url(spec, spec.download["url"], sums)
    )
    _unpack(archive, members, sums, spec.raw_dir)
    archive.unlink()
    log.info("fetched %s: %s", spec.name, spec.raw_dir)


def _from_hub(spec: DatasetSpec, repository: str) -> Path:
    from huggingface_hub import hf_hub_download  # here, not at the top: most runs download nothing
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name = f"{repository.split('/')[-1]}.zip"
    log.info("fetching %s of %s", name, repository)
    try:
        endpoint = os.environ.get("HF_ENDPOINT")
        return Path(hf_hub_download(repository, name, repo_type="dataset", local_dir=spec.raw_dir, endpoint=endpoint))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _unreachable(spec, f"{name} of {repository}", error) from error


def _from_url(spec: DatasetSpec, url: str, sums: dict[str, str]) -> Path:
    import pooch  # here, not at the top: most runs download nothing

    name = url.rsplit("/", 1)[-1]
    pooch.get_logger().setLevel("WARNING")
    try:
        found = pooch.retrieve(url, known_hash=f"md5:{sums[name]}", fname=name, path=spec.raw_dir, progressbar=True)
    except ValueError as error:  # pooch's word for another checksum
        raise InputError(
            f"{url} has another checksum than md5 {sums[name]}: it was cut short or changed; try again"
        ) from error
    except OSError as error:
        raise _unreachable(spec, url, error) from error
    return Path(found)


def _unreachable(spec: DatasetSpec, what: str, error: Exception) -> InputError:
    reason = str(error).strip().splitlines()
    return InputError(
        f"{what} cannot be fetched ({reason[0][:150] if reason else type(error).__name__}): is there a network? What was fetched is kept"
        f" in {spec.raw_dir}, the same command goes on from there. By hand: {spec.source.strip()}"
    )


def _unpack(archive: Path, members: list[str], sums: dict[str, str], folder: Path) -> None:
    """Take `members` out of a zip archive, check them, and only then give them their names.

    Raises:
        InputError: the archive is no whole zip, lacks a member, or a member has another checksum.
    """
    staging = folder / ".unpacking"
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        with zipfile.ZipFile(archive) as zipped, Progress(*columns) as bar:
            staging.mkdir(exist_ok=True)
            inside = {Path(info.filename).name: info for info in zipped.infolist() if not info.is_dir()}
            for name in (Path(member).name for member in members):
                if name not in inside:
                    raise InputError(f"{archive} holds no {name}, only {', '.join(inside)}")
                task = bar.add_task(f"unpack {name}", total=inside[name].file_size)
                with zipped.open(inside[name]) as source, (staging / name).open("wb") as target:
                    found = _copy(source, target, lambda done, task=task: bar.advance(task, done))  # type: ignore[misc]
                if sums.get(name, found) != found:
                    raise InputError(
                        f"{name} in {archive} has md5 {found}, expected {sums[name]}: remove the archive and fetch it again"
                    )
        for path in staging.iterdir():
            path.replace(folder / path.name)
    except zipfile.BadZipFile as error:
        archive.unlink()
        raise InputError(f"{archive} was no whole zip archive ({error}) and is removed: fetch it again") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _copy(source: IO[bytes], target: IO[bytes], tick: Callable[[int], None]) -> str:
    """Copy and return the md5 of what went by."""
    digest = hashlib.md5(usedforsecurity=False)
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        target.write(chunk)
        tick(len(chunk))
    return digest.hexdigest()
