import numpy as np
import torch

from conftest import draw_ids
from layers import array, check_gradients, randomized, run
from tf4ctr.models.encoders.onn import ONN
from tf4ctr.models.inputs import Inputs


def test_equals_the_mlp_of_embeddings_and_products(schema):
    encoder = randomized(ONN(schema, 4, hidden_units=[6, 5], pair_dim=2, dropout=0.5))
    emb, ids = torch.randn(5, 3, 4, dtype=torch.float64), draw_ids(schema, 5)
    out = encoder(emb, Inputs(ids))
    assert out.shape == (5, encoder.out_features) == (5, 5)
    table = array(encoder.products.table.weight)
    for row in range(5):
        first, second, third = table[ids[row].tolist()].reshape(3, 2, 2)  # by field, partner, number
        products = [first[0] @ second[0], first[1] @ third[0], second[1] @ third[1]]
        h = np.concatenate([array(emb[row]).ravel(), products])
        np.testing.assert_allclose(array(out[row]), run(encoder.layers, h[None])[0], atol=1e-9)


def test_gradients(schema):
    encoder = randomized(ONN(schema, 4, hidden_units=[6, 5], pair_dim=2))
    check_gradients(encoder, ids=draw_ids(schema, 4))
