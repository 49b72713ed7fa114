import numpy as np
import pytest
import torch

from layers import array, check_gradients, randomized, run
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.final_block import FactorizedInteraction, FinalBlock


@pytest.mark.parametrize("field_gate", [False, True])
def test_equals_the_formula_layer_by_layer(schema, field_gate):
    encoder = randomized(FinalBlock(schema, 4, hidden_units=[6, 5], field_gate=field_gate, dropout=0.5))
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, 5)
    for row in range(5):
        e = array(emb[row])
        if field_gate:
            weight, bias = array(encoder.field_gate.weight), array(encoder.field_gate.bias)
            e = np.stack([e[f] * (1 + sum(weight[f, g] * e[g] for g in range(3)) + bias[f]) for f in range(3)])
        h = e.ravel()
        for module in encoder.layers:
            if isinstance(module, FactorizedInteraction):
                uv = array(module.linear.weight) @ h + array(module.linear.bias)
                u, v = uv[: len(uv) // 2], uv[len(uv) // 2 :]
                h = u * v + v
            else:
                h = run([module], h[None])[0]
        np.testing.assert_allclose(array(out[row]), h, atol=1e-9)


@pytest.mark.parametrize("field_gate", [False, True])
def test_gradients(schema, field_gate):
    check_gradients(randomized(FinalBlock(schema, 4, hidden_units=[6, 5], field_gate=field_gate)))


@pytest.mark.parametrize(
    ("hidden_units", "dropout", "message"), [([], 0.0, "at least one layer"), ([6], 1.0, "dropout is 1.0")]
)
def test_invalid_options_are_refused(schema, hidden_units, dropout, message):
    with pytest.raises(InputError, match=message):
        FinalBlock(schema, 4, hidden_units=hidden_units, dropout=dropout)
