"""TF4CTR: train and compare CTR models in the Twin Focus framework (arXiv 2405.03167)."""

__version__ = "0.1.0"
