"""Files that are there whole or not at all, links to them, and sizes in words."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write `text` as `path`, whole or not at all; see `whole`."""
    with whole(path) as partial:
        partial.write_text(text)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to: at the end it is renamed to `path`, after an error removed.

    Several processes can write the same file: each has a partial one of its own.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def link_files(source: Path, target: Path) -> None:
    """Put all parquet files of one folder into another one.

    They are hard links, which take no space; they are copies where links are impossible.
    """
    target.mkdir(exist_ok=True)
    for path in sorted(source.glob("*.parquet")):
        link_file(path, target / path.name)


def link_file(path: Path, link: Path) -> None:
    """Put the file `path` at `link`, in place of a file that is there; see `link_files`."""
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(path)
    except OSError:  # the folders are on different disks, or the file system has no links
        shutil.copy2(path, link)


def size_text(size: float) -> str:
    """Bytes in words: 1.5 GB, 20.0 MB."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
