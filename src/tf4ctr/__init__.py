"""TF4CTR: train and compare CTR models in the Twin Focus framework (arXiv 2405.03167)."""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["Ensemble", "TrainedRun", "load", "train"]


def __getattr__(name: str) -> Any:
    """The names of api.py, which is imported at their first use: it needs torch.

    An import statement would be a cycle, because other modules read `__version__` from here.
    """
    if name in __all__:
        return getattr(importlib.import_module("tf4ctr.api"), name)
    raise AttributeError(f"module 'tf4ctr' has no attribute {name!r}")
