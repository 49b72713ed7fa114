"""The sweeper of sweep=optuna. Hydra finds sweepers only in packages named hydra_plugins."""

from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSearch(Sweeper):
    """Searches with Optuna, see `tf4ctr.experiments.search.search`.

    Args:
        options: of conf/hydra/sweeper/optuna.yaml.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the search with the overrides of the command line.

        Raises:
            InputError: it is a dry run, or see `search`.
        """
        # Hydra imports this file at every start
        from tf4ctr.errors import InputError
        from tf4ctr.experiments.search import search

        assert self.config is not None
        if self.config.dry_run:
            raise InputError(
                "sweep=optuna needs the results of its trials, and dry_run=true trains nothing: remove one of them"
            )
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        search(self, folder, arguments, **self.options)
