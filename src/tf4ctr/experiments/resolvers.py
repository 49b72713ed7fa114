"""The resolvers that the configs use."""

from omegaconf import OmegaConf

from tf4ctr.experiments import sweeps
from tf4ctr.experiments.runs import ROOT, run_folder


def register_resolvers() -> None:
    """Make `${root:}` (the project's folder), `${run_folder:CKPT,NAME}`, `${job_name:NAME}` and `${sweep_name:}` known to the configs."""
    OmegaConf.register_new_resolver("root", lambda: str(ROOT), replace=True)
    OmegaConf.register_new_resolver("job_name", sweeps.job_name, replace=True)
    OmegaConf.register_new_resolver("sweep_name", sweeps.sweep_name, replace=True)
    OmegaConf.register_new_resolver("run_folder", lambda ckpt, name: str(run_folder(ckpt, name)), replace=True)
