from itertools import combinations

import numpy as np
import pytest
import torch

from layers import array, check_gradients, randomized, run
from tf4ctr.data.schema import Field, Schema
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.bi_interaction import BiInteraction


@pytest.mark.parametrize("batch_norm", [True, False])
def test_equals_the_sum_over_pairs_then_an_mlp(schema, batch_norm):
    encoder = randomized(BiInteraction(schema, 4, hidden_units=[6, 5], batch_norm=batch_norm))
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, 5)
    for row in range(5):
        e = array(emb[row])
        pooled = sum(e[f] * e[g] for f, g in combinations(range(3), 2))
        np.testing.assert_allclose(array(out[row]), run([encoder.norm, *encoder.layers], pooled[None])[0], atol=1e-10)


def test_gradients(schema):
    check_gradients(randomized(BiInteraction(schema, 4, hidden_units=[6])))


def test_one_field_has_no_pairs():
    with pytest.raises(InputError, match="needs pairs of fields"):
        BiInteraction(Schema("toy", (Field("user", 7),), "click", None), 4, hidden_units=[5])
