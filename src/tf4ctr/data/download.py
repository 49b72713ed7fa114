"""Download raw files, with resume, progress bar and checksums.

An incomplete file never gets its final name.
"""

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

CHUNK = 2**20  # bytes copied between two updates of the progress bar
SHOWN_CHARACTERS = 150  # of a network error, which can be pages long


def fetch(spec: DatasetSpec) -> None:
    """Download the files that `dataset.download` names into the raw folder, unless they exist.

    Keys of `dataset.download`:

    - `hub`, a dataset on the Hugging Face hub that has a zip archive of its own name, or `url`,
      the address of a zip archive;
    - `md5`, the checksums: file name -> md5. With `url` the archive's own is required;
    - `unpack`, the members to extract. The default is the files in `md5`.

    Raises:
        InputError: the dataset has no `download`, the server cannot be reached, or a checksum is
            wrong.
    """
    if spec.raw_dir is None or spec.download is None:
        raise InputError(
            f"{spec.name} cannot be downloaded automatically.\n{spec.source.strip()}\n"
            f"Then put the files into {spec.raw_dir}"
        )
    sums = spec.download.get("md5", {})
    members = spec.download.get("unpack") or list(sums)
    if all((spec.raw_dir / Path(member).name).exists() for member in members):
        log.info("%s: already in %s", ", ".join(Path(member).name for member in members), spec.raw_dir)
        return
    spec.raw_dir.mkdir(parents=True, exist_ok=True)
    archive = (
        _from_hub(spec, spec.download["hub"]) if "hub" in spec.download else _from_url(spec, spec.download["url"], sums)
    )
    _unpack(archive, members, sums, spec.raw_dir)
    archive.unlink()
    log.info("downloaded %s: %s", spec.name, spec.raw_dir)


def _from_hub(spec: DatasetSpec, repository: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name = f"{repository.split('/')[-1]}.zip"
    log.info("downloading %s of %s", name, repository)
    try:
        endpoint = os.environ.get("HF_ENDPOINT")
        return Path(hf_hub_download(repository, name, repo_type="dataset", local_dir=spec.raw_dir, endpoint=endpoint))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _unreachable(spec, f"{name} of {repository}", error) from error


def _from_url(spec: DatasetSpec, url: str, sums: dict[str, str]) -> Path:
    import pooch

    name = url.rsplit("/", 1)[-1]
    pooch.get_logger().setLevel("WARNING")
    try:
        path = pooch.retrieve(url, known_hash=f"md5:{sums[name]}", fname=name, path=spec.raw_dir, progressbar=True)
    except ValueError as error:  # pooch raises it for a wrong checksum
        raise InputError(
            f"{url}: the checksum is not the expected md5 {sums[name]}, so the download is incomplete or the file"
            " has changed: try again"
        ) from error
    except OSError as error:
        raise _unreachable(spec, url, error) from error
    return Path(path)


def _unreachable(spec: DatasetSpec, source: str, error: Exception) -> InputError:
    lines = str(error).strip().splitlines()
    reason = lines[0][:SHOWN_CHARACTERS] if lines else type(error).__name__
    return InputError(
        f"{source} cannot be downloaded ({reason}): check the network, then run the same command again."
        f" It continues with the part that is already in {spec.raw_dir}. To download by hand: {spec.source.strip()}"
    )


def _unpack(archive: Path, members: list[str], sums: dict[str, str], folder: Path) -> None:
    """Extract `members` from a zip archive into `folder`, once all of them are checked.

    Raises:
        InputError: the archive is not a complete zip file, lacks a member, or a member has a wrong
            checksum.
    """
    staging = folder / ".unpacking"
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        with zipfile.ZipFile(archive) as zipped, Progress(*columns) as bar:
            staging.mkdir(exist_ok=True)
            infos = {Path(info.filename).name: info for info in zipped.infolist() if not info.is_dir()}
            for name in (Path(member).name for member in members):
                if name not in infos:
                    raise InputError(f"{archive} does not contain {name}, only {', '.join(infos)}")
                task = bar.add_task(f"unpack {name}", total=infos[name].file_size)
                with zipped.open(infos[name]) as source, (staging / name).open("wb") as target:
                    md5 = _copy(source, target, lambda count, task=task: bar.advance(task, count))  # type: ignore[misc]
                if sums.get(name, md5) != md5:
                    raise InputError(
                        f"{name} in {archive} has md5 {md5}, expected {sums[name]}:"
                        " remove the archive and download it again"
                    )
        for path in staging.iterdir():
            path.replace(folder / path.name)
    except zipfile.BadZipFile as error:
        archive.unlink()
        raise InputError(
            f"{archive} was not a complete zip archive ({error}) and has been removed: download it again"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _copy(source: IO[bytes], target: IO[bytes], tick: Callable[[int], None]) -> str:
    """Copy all bytes, call `tick` with the size of each chunk, and return the md5 of the bytes."""
    digest = hashlib.md5(usedforsecurity=False)
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        target.write(chunk)
        tick(len(chunk))
    return digest.hexdigest()
