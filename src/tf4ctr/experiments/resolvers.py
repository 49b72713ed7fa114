"""The resolvers that the configs use."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from tf4ctr.experiments.runs import ROOT, run_folder
from tf4ctr.experiments.sweeps import is_job


def register_resolvers() -> None:
    """Register the resolvers.

    They are `${root:}` (the project's folder), `${run_folder:CKPT,NAME,DRY_RUN}`,
    `${job_name:NAME}`, `${sweep_name:}` and `${replay_folder:FOLDER,DATASET}`.
    """
    OmegaConf.register_new_resolver("root", lambda: str(ROOT), replace=True)
    OmegaConf.register_new_resolver("job_name", job_name, replace=True)
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
    OmegaConf.register_new_resolver("run_folder", lambda *options: str(run_folder(*options)), replace=True)
    OmegaConf.register_new_resolver("replay_folder", replay_folder, replace=True)


def replay_folder(folder: str | None, dataset: str) -> str:
    """The folder of a replay: `folder` if it is given, else a new one."""
    return str(Path(folder).expanduser().absolute() if folder else run_folder(None, f"replay-{dataset}"))


def job_name(default: str) -> str:
    """Name of a run: in a sweep the overrides that not all jobs have, as in `dfm=sum seed=2019`.

    Outside of a sweep it is `default`.
    """
    if not (HydraConfig.initialized() and is_job()):
        return default
    hydra = HydraConfig.get()
    shared = OmegaConf.load(Path(hydra.runtime.output_dir).parent / "multirun.yaml").hydra.overrides.task
    parser = OverridesParser.create()
    # by their keys, because Hydra writes values anew: lr=1e-3 becomes lr=0.001 in a job
    fixed = {parsed.get_key_element() for parsed in parser.parse_overrides(shared) if not parsed.is_sweep_override()}
    own = parser.parse_overrides(list(hydra.overrides.task))
    return " ".join(str(parsed.input_line) for parsed in own if parsed.get_key_element() not in fixed) or default


def sweep_name() -> str | None:
    """Name of a sweep: DATE/TIME of its folder; None outside of a sweep."""
    if not (HydraConfig.initialized() and is_job()):
        return None
    return "/".join(Path(HydraConfig.get().runtime.output_dir).parts[-3:-1])
