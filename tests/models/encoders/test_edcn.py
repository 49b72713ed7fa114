import numpy as np
import pytest
import torch

from layers import array, check_gradients, ready, run, softmax
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.edcn import BRIDGES, EDCN


def bridged(bridge, x, h):
    if bridge.kind == "product":
        return x * h
    if bridge.kind == "sum":
        return x + h
    if bridge.kind == "concat":
        return np.maximum(array(bridge.linear.weight) @ np.concatenate([x, h]) + array(bridge.linear.bias), 0)
    scores = softmax(np.array([run(bridge.score, part[None])[0, 0] for part in (x, h)]))
    return scores[0] * x + scores[1] * h


@pytest.mark.parametrize("bridge", BRIDGES)
def test_equals_the_formula_layer_by_layer(schema, bridge):
    encoder = ready(EDCN(schema, 4, num_layers=2, bridge=bridge, temperature=0.5, dropout=0.5))
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, 36)
    for row in range(5):
        shared, first = array(emb[row]).ravel(), None
        for layer in range(2):
            views = []
            for which in (0, 1):
                share = softmax(array(encoder.regulations[layer].weight[which]) / 0.5)
                views.append(np.concatenate([share[f] * shared[4 * f : 4 * f + 4] for f in range(3)]))
            x, h = views
            first = x if layer == 0 else first
            x = first * (array(encoder.crosses[layer].weight)[0] @ x) + array(encoder.cross_biases[layer]) + x
            h = run(encoder.deeps[layer], h[None])[0]
            shared = bridged(encoder.bridges[layer], x, h)
        np.testing.assert_allclose(array(out[row]), np.concatenate([x, h, shared]), atol=1e-9)


@pytest.mark.parametrize("bridge", BRIDGES)
def test_gradients(schema, bridge):
    check_gradients(ready(EDCN(schema, 4, num_layers=2, bridge=bridge)))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"bridge": "sums"}, "did you mean 'sum'"), ({"temperature": 0}, "positive"), ({"num_layers": 0}, "one layer")],
)
def test_what_cannot_be_is_refused(schema, options, message):
    with pytest.raises(InputError, match=message):
        EDCN(schema, 4, **{"num_layers": 2, **options})
