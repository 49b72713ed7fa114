import numpy as np
import pytest
import torch

from layers import array, check_gradients, randomized, run
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.qnn import QNN


@pytest.mark.parametrize("rank", [1, 3])
def test_equals_the_formula_layer_by_layer(schema, rank):
    encoder = randomized(QNN(schema, 4, num_layers=2, rank=rank, dropout=0.5))
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, 12)
    for row in range(5):
        x = array(emb[row]).ravel()
        for layer in encoder.layers:
            h = run(layer, x[None])[0]
            x = x * sum(h[12 * r : 12 * r + 12] for r in range(rank)) + x
        np.testing.assert_allclose(array(out[row]), x, atol=1e-9)


def test_gradients(schema):
    check_gradients(randomized(QNN(schema, 4, num_layers=2, rank=2)))


def test_dropout_is_used_in_training_only(schema):
    encoder = QNN(schema, 4, num_layers=1, rank=1, dropout=0.5)
    assert 0.3 < (encoder.train()(torch.randn(200, 3, 4), None) == 0).float().mean() < 0.7


@pytest.mark.parametrize("options", [(0, 1, 0.0), (1, 0, 0.0), (1, 1, 1.0)])
def test_invalid_options_are_refused(schema, options):
    with pytest.raises(InputError, match="at least one layer and a rank"):
        QNN(schema, 4, *options)
