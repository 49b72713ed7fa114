import numpy as np
import pytest
import torch

from layers import array, check_gradients, randomized, run, softmax
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.destine import DESTINE


@pytest.mark.parametrize("scale", [True, False])
def test_equals_the_formula_layer_by_layer(schema, scale):
    encoder = randomized(DESTINE(schema, 4, num_layers=2, units=6, num_heads=2, scale=scale, dropout=0.5))
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, 18)
    for row in range(5):
        e = array(emb[row])
        for layer in encoder.layers:
            query, key, value, residual = (
                run([part], e) for part in (layer.query, layer.key, layer.value, layer.residual)
            )
            unary = run([layer.unary], e)
            for number, head in enumerate((slice(0, 3), slice(3, 6))):
                q, k = query[:, head] - query[:, head].mean(0), key[:, head] - key[:, head].mean(0)
                of_field = softmax(unary[:, number])
                for f in range(3):
                    of_pair = softmax(np.array([q[f] @ k[g] for g in range(3)]) / (3**0.5 if scale else 1))
                    residual[f, head] += sum((of_pair[g] + of_field[g]) * value[g, head] for g in range(3))
            e = residual
        np.testing.assert_allclose(array(out[row]), e.ravel(), atol=1e-9)


def test_gradients(schema):
    check_gradients(randomized(DESTINE(schema, 4, num_layers=2, units=6, num_heads=3)))


def test_dropout_is_used_in_training(schema):
    encoder, emb = DESTINE(schema, 4, 1, 6, 2, dropout=0.5), torch.randn(9, 3, 4)
    assert not torch.equal(encoder.train()(emb, None), encoder.eval()(emb, None))


@pytest.mark.parametrize("options", [(0, 6, 2), (1, 5, 2), (1, 6, 0)])
def test_invalid_options_are_refused(schema, options):
    with pytest.raises(InputError, match="units a multiple of num_heads"):
        DESTINE(schema, 4, *options)
