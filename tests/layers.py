"""Layers of the encoders in numpy and float64: the expected values of the tests."""

import numpy as np
import torch

from tf4ctr.models.inputs import Inputs


def randomized(encoder):
    """Set all weights, biases and running statistics to random values; float64, evaluation mode."""
    encoder = encoder.double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5 + 0.1)
        for name, buffer in encoder.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 2.0)
    return encoder.eval()


def array(tensor):
    """The values of a tensor, in numpy."""
    return tensor.detach().numpy()


def run(modules, x):
    """Apply linear layers, batch norms and ReLUs to x [B, N]. Other modules have no effect."""
    for module in modules:
        if isinstance(module, torch.nn.Linear):
            x = x @ array(module.weight).T + (0 if module.bias is None else array(module.bias))
        elif isinstance(module, torch.nn.BatchNorm1d):
            x = (x - array(module.running_mean)) / np.sqrt(array(module.running_var) + module.eps)
            x = x * array(module.weight) + array(module.bias)
        elif isinstance(module, torch.nn.ReLU):
            x = np.maximum(x, 0)
    return x


def sigmoid(x):
    """1 / (1 + e^-x), elementwise."""
    return 1 / (1 + np.exp(-x))


def softmax(x):
    """The softmax of a vector."""
    e = np.exp(x - x.max())
    return e / e.sum()


def check_gradients(encoder, fields=3, dim=4, rows=4, ids=None):
    """Compare the derivatives of the outputs by the embeddings with finite differences."""
    emb = torch.randn(rows, fields, dim, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda emb: encoder(emb, None if ids is None else Inputs(ids)), emb)
