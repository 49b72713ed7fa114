"""What the tests of several encoders of histories check in the same way."""

import inspect

import hydra.utils
import numpy as np
import torch
from omegaconf import OmegaConf

from conftest import ROOT
from layers import array
from tf4ctr.inference import exporting


class Both(torch.nn.Module):
    """The vectors and the weights, side by side: [B, E + L]."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, history, known, target=None):
        return torch.cat([self.module(history, known, target), self.module.weights(history, known, target)], 1)


def check_exports(model, inputs_of, lengths, folder, copies=50, rtol=1e-5, atol=1e-5):
    """Compare a model with its graph and its ONNX file, on one row and on many.

    Args:
        model: in evaluation mode.
        inputs_of: lengths of histories -> inputs by name.
        lengths: of the rows with which the graph is recorded.
        folder: where the ONNX file is written.
        copies: of the lengths 0 to 5 in the largest batch.
        rtol, atol: of the ONNX file.
    """
    example = inputs_of(lengths)
    graph, onnx = exporting._graph(model, example).module(), exporting._to_onnx(model, example, folder)
    for lengths in ((0,), (4,), (0, 1, 2, 3, 4, 5) * copies):
        inputs = inputs_of(lengths)
        with torch.inference_mode():
            exact = model(*inputs.values())
        torch.testing.assert_close(graph(*inputs.values()), exact)
        np.testing.assert_allclose(onnx(*(array(rows) for rows in inputs.values())), array(exact), rtol=rtol, atol=atol)


def check_config(name, cls):
    """The yaml builds the class, with all options at their defaults; returns a small encoder."""
    config = OmegaConf.load(ROOT / "conf" / "sequence" / f"{name}.yaml")
    module = hydra.utils.instantiate(config)(features=4, width=5, has_target=True)
    assert type(module) is cls
    options = {option.name: option.default for option in list(inspect.signature(cls).parameters.values())[3:]}
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    assert {key: config[key] for key in config if not key.startswith("_")} == options
    return module
