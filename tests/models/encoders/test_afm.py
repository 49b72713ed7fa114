from itertools import combinations

import numpy as np
import pytest
import torch

from conftest import draw_ids
from layers import array, check_gradients, randomized, run, softmax
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.afm import AFM
from tf4ctr.models.inputs import Inputs


def test_equals_the_attention_over_pairs(schema):
    encoder = randomized(AFM(schema, 4, attention_units=5, dropout=0.5))
    emb, ids = torch.randn(5, 3, 4, dtype=torch.float64), draw_ids(schema, 5)
    out = encoder(emb, Inputs(ids))
    assert out.shape == (5, encoder.out_features) == (5, 1)
    first_order, p = array(encoder.linear.weight.weight)[:, 0], array(encoder.output.weight)[0]
    for row in range(5):
        e = array(emb[row])
        products = [e[f] * e[g] for f, g in combinations(range(3), 2)]
        a = softmax(np.array([run(encoder.attention, product[None])[0, 0] for product in products]))
        pooled = sum(weight * product for weight, product in zip(a, products, strict=True))
        expected = encoder.linear.bias.item() + sum(first_order[i] for i in ids[row].tolist()) + p @ pooled
        np.testing.assert_allclose(out[row].item(), expected, atol=1e-10)


def test_gradients(schema):
    check_gradients(randomized(AFM(schema, 4, attention_units=5)), ids=draw_ids(schema, 4))


def test_dropout_is_used_in_training(schema):
    encoder, emb, x = AFM(schema, 4, 5, dropout=0.5), torch.randn(9, 3, 4), Inputs(draw_ids(schema, 9))
    assert not torch.equal(encoder.train()(emb, x), encoder.eval()(emb, x))


@pytest.mark.parametrize("options", [(0, 0.0), (4, 1.0)])
def test_invalid_options_are_refused(schema, options):
    with pytest.raises(InputError, match="at least one unit"):
        AFM(schema, 4, *options)
