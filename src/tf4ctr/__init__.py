"""TF4CTR: train and compare click-through-rate models inside the Twin Focus framework (arXiv 2405.03167)."""

__version__ = "0.1.0"
