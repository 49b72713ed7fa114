"""The folder of a run: a new one for a new run, the existing one for a run that is resumed."""

import functools
import shutil
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from tf4ctr.errors import InputError
from tf4ctr.experiments.outcomes import Ending, read_outcome
from tf4ctr.files import write_whole

if TYPE_CHECKING:
    from filelock import FileLock

ROOT = Path(__file__).resolve().parents[3]

# parts of the config that must not change when a run is resumed
PARTS = ("number", "sequence", "embedding", "backbone", "ssem", "dfm", "loss", "optimizer", "stream")
FIXED = ("seed", "init", "monitor", "calibrate", "dataset", *PARTS)
# options that older versions did not have, and what they did
LATER = {"monitor": "auc+gauc", "calibrate": False}
# exceptions: where files are stored and where they come from, and what matters at the start only
MOVABLE = ("dataset.raw_dir", "dataset.prepared_dir", "dataset.source")
AT_START = ("embedding.table.init_std",)
# files that a training writes before its end
LEFTOVERS = (
    *("metrics.csv", "curves.png", "focus.json", "focus.png", "gates.png"),
    *("checkpoints/best.ckpt", "checkpoints/last.ckpt"),
)
# classes of version 0.1.0 whose successors read their checkpoints
SUCCESSORS = {"torch.optim.Adam": "tf4ctr.training.optim.RowwiseAdam"}


_temporary: list[Path] = []  # the folder of a dry run
_held: dict[Path, "FileLock"] = {}  # of the folders that this process trains or searches in


@functools.cache  # a config asks several times while it is composed; the folder is created once
def run_folder(ckpt: str | None, name: str, dry_run: bool = False) -> Path:
    """`folder_of`, with the same folder for the whole process.

    That of a dry run is temporary, so that it changes nothing in the folder of a run.
    """
    if dry_run:
        _temporary.append(Path(tempfile.mkdtemp(prefix=f"{name}-")))
        return _temporary[-1]
    return folder_of(ckpt, name)


def folder_of(ckpt: str | None, name: str) -> Path:
    """Return the folder of the run that `ckpt` belongs to, else create outputs/DATE/TIME-NAME.

    A new folder is unique, also if several runs start in the same second.
    """
    if ckpt:
        path = find_checkpoint(ckpt)
        if (path.parent.parent / "config.yaml").exists():
            return path.parent.parent
    now = datetime.now()
    parent = ROOT / "outputs" / f"{now:%Y-%m-%d}"
    parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1000):  # more runs than a machine starts in a second
        folder = parent / (f"{now:%H-%M-%S}-{name}" + (f"-{attempt}" if attempt else ""))
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise InputError(f"{parent} already contains 1000 runs of this second: set hydra.run.dir=FOLDER")


def is_temporary(folder: Path) -> bool:
    """Whether the folder of a run is removed at its end."""
    return folder in _temporary


def remove_temporary() -> None:
    """Remove the folder of a dry run, unless the command line named it."""
    while _temporary:
        shutil.rmtree(_temporary.pop(), ignore_errors=True)


def find_checkpoint(ckpt: str) -> Path:
    """The file that `ckpt=` names: a path, a run's folder, or `last` for the newest in outputs/.

    Raises:
        InputError: the file does not exist, or the folder has none.
    """
    if ckpt == "last":
        paths = (ROOT / "outputs").glob("**/checkpoints/last.ckpt")
        newest = max(paths, key=lambda path: path.stat().st_mtime, default=None)
        if newest is None:
            raise InputError(f"ckpt=last: no run in {ROOT / 'outputs'} has a checkpoints/last.ckpt")
        return newest
    path = Path(ckpt).expanduser().absolute()
    if path.is_dir():
        if (last := left_checkpoint(path)) is None:
            raise InputError(
                f"ckpt={ckpt}: the folder has no checkpoints/last.ckpt; name the folder of a run, or the file"
            )
        return last
    if not path.is_file():
        raise InputError(f"ckpt={ckpt}: the file does not exist; use a path or ckpt=last")
    return path


def folder_lock(folder: Path) -> "FileLock":
    """The lock of a run's folder. A process can take it several times."""
    from filelock import FileLock  # not at the top: the image that serves models has no such package

    return FileLock(folder / ".lock", is_singleton=True)


def hold(folder: Path) -> None:
    """Keep other trainings and searches out of `folder` until `let_go`.

    Raises:
        InputError: another process is at work there.
    """
    from filelock import Timeout

    lock = folder_lock(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{folder}: another process is at work in this folder. Wait for its end, or name another folder with"
            " hydra.run.dir= (of a sweep: hydra.sweep.dir=)"
        ) from error
    _held[folder] = lock


def let_go(folder: Path) -> None:
    """Undo `hold`; nothing is done if `folder` is not held."""
    if lock := _held.pop(folder, None):
        lock.release()


def left_checkpoint(folder: Path) -> Path | None:
    """The checkpoint from which the stopped run in `folder` goes on; None if it has none."""
    path = folder / "checkpoints" / "last.ckpt"
    return path if path.exists() else None


def check_unused(folder: Path) -> None:
    """Check that a new run replaces no other one.

    Raises:
        InputError: `folder` has a finished run, or a stopped one that can go on.
    """
    last = left_checkpoint(folder)
    finished = read_outcome(folder).ending is Ending.TRAINED
    if finished or last:
        raise InputError(
            f"{folder} has a {'finished' if finished else 'stopped'} run, which a new one would replace. Name another"
            " folder with hydra.run.dir=, or remove this one" + (f"; ckpt={last} goes on with it" if last else "")
        )


def remove_leftovers(folder: Path) -> None:
    """Remove what a run that did not finish left in `folder`, as it is not of the new one."""
    for name in LEFTOVERS:
        (folder / name).unlink(missing_ok=True)
    remove_results(folder)


def remove_refused(folder: Path) -> None:
    """Remove the folder of a run that was refused, if it is a new one in outputs/."""
    let_go(folder)
    own = folder.is_relative_to(ROOT / "outputs") and not EarlierSettings.files
    if own and all(path.name in (".hydra", ".lock") or path.suffix == ".log" for path in folder.iterdir()):
        shutil.rmtree(folder, ignore_errors=True)


def remove_results(folder: Path) -> None:
    """Remove what was measured with weights that best.ckpt does not have any more."""
    for name in ("metrics.json", "index.html"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "evaluation", ignore_errors=True)


class EarlierSettings(Callback):
    """Hydra callback that keeps what .hydra/ of a run's folder has before Hydra replaces it."""

    files: ClassVar[dict[Path, bytes]] = {}

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        hydra = HydraConfig.instance()
        before = hydra.cfg
        hydra.set_config(config)  # Hydra does so later, and the folder's name depends on it
        try:
            folder = Path(config.hydra.run.dir)
        except Exception:  # the run will raise it, too; Hydra would reduce it to a warning here
            return
        finally:
            hydra.cfg = before
        self.files.update({path: path.read_bytes() for path in (folder / ".hydra").glob("*.yaml")})

    @classmethod
    def put_back(cls) -> None:
        """Undo what Hydra has written, as the run was refused."""
        for path, content in cls.files.items():
            path.write_bytes(content)


def quoted(text: str) -> str:
    """A text in the grammar of Hydra's overrides."""
    return QuotedString(text, Quote.single).with_quotes()


def write_config(folder: Path, config: DictConfig) -> None:
    """Write the composed config as `folder/config.yaml`, whole or not at all."""
    write_whole(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))


def check_same_run(folder: Path, config: Mapping[str, Any]) -> None:
    """Check that a run is resumed with the settings it was started with.

    Raises:
        InputError: a setting differs; names all that differ.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return
    started = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(started, dict)
    earlier = OmegaConf.select(OmegaConf.create(started), "callbacks.checkpoint_best.monitor") or "val/monitor"
    if "monitor" in config and "monitor" not in started and earlier != "val/monitor":
        raise InputError(
            f"{folder} was started by an older version with callbacks.checkpoint_best.monitor={earlier}, and cannot"
            " resume: here the option monitor says what chooses the best epoch. Start a new run without ckpt=;"
            " init=RUN begins it from the best weights of an earlier one"
        )
    started = {key: value for key, value in LATER.items() if key in config} | started
    # an older version may not have had a group: its run is what the group's default describes
    fixed = [key for key in FIXED if key in started]
    before, now = (flatten({key: node.get(key) for key in fixed}) for node in (started, config))
    # nor an option: its run is what the option turned off describes, or one lambda for all encoders
    for key in {*now} - {*before}:
        if key.endswith(".embedding_l2"):
            before[key] = before.get("embedding.l2")
        elif not now[key]:
            before[key] = now[key]
    changed = [
        f"  {key}: {before.get(key)} -> {now.get(key)}"
        for key in sorted({*before, *now} - {*MOVABLE, *AT_START})
        if not _same(key, before.get(key), now.get(key))
    ]
    if changed:
        raise InputError(
            f"{folder} was started with other settings:\n"
            + "\n".join(changed)
            + "\nRepeat the overrides of that run beside ckpt=, or start a new run without ckpt=; init=RUN begins a new"
            " run from the best weights of an earlier one"
        )


def check_same_values(folder: Path, prepared_dir: Path) -> None:
    """Check that a run is resumed on a dataset with the values that it was started with.

    Raises:
        InputError: the vocabulary of a field differs.
    """
    import polars as pl  # not at the top: --help does without it

    for path in sorted((prepared_dir / "vocabulary").glob("*.parquet")):
        own = folder / "vocabulary" / path.name
        if own.exists() and not pl.read_parquet(own).equals(pl.read_parquet(path)):
            raise InputError(
                f"{folder} was started on other data: the field '{path.stem}' has other values now. ckpt=FILE goes on"
                f" with the same data; init={folder} begins a new run from its best weights, on other data"
            )


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a tree, each with its path as the key: loss.alpha -> 0.25."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _same(key: str, before: Any, now: Any) -> bool:
    """Whether two values of a setting are equal. A class of ours may be in another file now."""
    if before == now or not key.endswith("._target_"):
        return before == now
    return class_of(SUCCESSORS.get(before, before)) == class_of(now)


def class_of(target: str | None) -> str | None:
    """A `_target_`; of a class of ours only its name, as its file may be another one now."""
    return target.rpartition(".")[2] if target and target.startswith("tf4ctr.") else target
