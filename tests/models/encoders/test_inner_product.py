from itertools import combinations

import numpy as np
import pytest
import torch

from layers import array, check_gradients, randomized, run
from tf4ctr.data.schema import Field, Schema
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.inner_product import InnerProduct


@pytest.mark.parametrize("embeddings", [True, False])
def test_equals_the_products_of_pairs_then_an_mlp(schema, embeddings):
    encoder = randomized(InnerProduct(schema, 4, hidden_units=[6, 5], embeddings=embeddings, dropout=0.5))
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, 5)
    for row in range(5):
        e = array(emb[row])
        inputs = [e[f] @ e[g] for f, g in combinations(range(3), 2)]
        inputs = [*e.ravel(), *inputs] if embeddings else inputs
        np.testing.assert_allclose(array(out[row]), run(encoder.layers, np.array([inputs]))[0], atol=1e-10)


@pytest.mark.parametrize("embeddings", [True, False])
def test_gradients(schema, embeddings):
    check_gradients(randomized(InnerProduct(schema, 4, hidden_units=[6], embeddings=embeddings)))


def test_one_field_is_refused():
    with pytest.raises(InputError, match="toy has one field"):
        InnerProduct(Schema("toy", (Field("user", 7),), "click"), 4, hidden_units=[6])
