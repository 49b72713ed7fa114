import numpy as np
import pytest
import torch

from layers import array, check_gradients, randomized, run, softmax
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.edcn import BRIDGES, EDCN


def combined(bridge, x, h):
    if bridge.kind == "product":
        return x * h
    if bridge.kind == "sum":
        return x + h
    if bridge.kind == "concat":
        return np.maximum(array(bridge.linear.weight) @ np.concatenate([x, h]) + array(bridge.linear.bias), 0)
    scores = softmax(np.array([run(bridge.score, output[None])[0, 0] for output in (x, h)]))
    return scores[0] * x + scores[1] * h


@pytest.mark.parametrize("bridge", BRIDGES)
def test_equals_the_formula_layer_by_layer(schema, bridge):
    encoder = randomized(EDCN(schema, 4, num_layers=2, bridge=bridge, temperature=0.5, dropout=0.5))
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, 36)
    for row in range(5):
        bridge_out, first = array(emb[row]).ravel(), None
        for layer in range(2):
            views = []
            for number in (0, 1):
                weights = softmax(array(encoder.regulations[layer].weight[number]) / 0.5)
                views.append(np.concatenate([weights[f] * bridge_out[4 * f : 4 * f + 4] for f in range(3)]))
            x, h = views
            first = x if layer == 0 else first
            x = first * (array(encoder.crosses[layer].weight)[0] @ x) + array(encoder.cross_biases[layer]) + x
            h = run(encoder.deeps[layer], h[None])[0]
            bridge_out = combined(encoder.bridges[layer], x, h)
        np.testing.assert_allclose(array(out[row]), np.concatenate([x, h, bridge_out]), atol=1e-9)


@pytest.mark.parametrize("bridge", BRIDGES)
def test_gradients(schema, bridge):
    check_gradients(randomized(EDCN(schema, 4, num_layers=2, bridge=bridge)))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"bridge": "sums"}, "did you mean 'sum'"), ({"temperature": 0}, "positive"), ({"num_layers": 0}, "one layer")],
)
def test_invalid_options_are_refused(schema, options, message):
    with pytest.raises(InputError, match=message):
        EDCN(schema, 4, **{"num_layers": 2, **options})
