import numpy as np
import pytest
import torch

from layers import array, check_gradients, randomized, run, sigmoid
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.gated_mlp import GatedMLP


@pytest.mark.parametrize("context", [(), ("hour",), ("hour", "user")])
def test_equals_an_mlp_over_the_gated_embeddings(schema, context):
    encoder = randomized(GatedMLP(schema, 4, hidden_units=[6, 5], context=context, gate_units=7))
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, 5)
    for row in range(5):
        e = dict(zip(("user", "item", "hour"), array(emb[row]), strict=True))
        inputs = np.concatenate([e[name] for name in context]) if context else array(encoder.constant)[0]
        gate = 2 * sigmoid(run(encoder.gate, inputs[None])[0])
        np.testing.assert_allclose(
            array(out[row]), run(encoder.layers, (gate * array(emb[row]).ravel())[None])[0], atol=1e-9
        )


def test_the_initial_gate_is_one_if_its_biases_are_zero(schema):
    """The initial context is zero, so the gate is 2 sigmoid(0) = 1."""
    encoder = GatedMLP(schema, 4, hidden_units=[6])
    with torch.no_grad():
        for layer in (encoder.gate[0], encoder.gate[2]):
            layer.bias.zero_()
    assert torch.allclose(2 * torch.sigmoid(encoder.gate(encoder.constant)), torch.ones(1, 12))


@pytest.mark.parametrize("context", [(), ("item",)])
def test_gradients(schema, context):
    check_gradients(randomized(GatedMLP(schema, 4, hidden_units=[6], context=context, gate_units=7)))


@pytest.mark.parametrize(
    ("options", "message"), [({"context": ["itme"]}, "did you mean 'item'"), ({"gate_units": 0}, "gate_units is 0")]
)
def test_invalid_options_are_refused(schema, options, message):
    with pytest.raises(InputError, match=message):
        GatedMLP(schema, 4, hidden_units=[6], **options)
