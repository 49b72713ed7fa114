from itertools import combinations

import numpy as np
import pytest
import torch

from layers import array, check_gradients, randomized, run
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.bilinear import Bilinear

PAIRS = list(combinations(range(3), 2))
MATRICES = {"all": [0, 0, 0], "field": [0, 0, 1], "pair": [0, 1, 2]}  # of the pairs (0, 1), (0, 2), (1, 2)


@pytest.mark.parametrize("weights", ["all", "field", "pair"])
def test_equals_pairs_of_plain_and_weighted_embeddings_then_an_mlp(schema, weights):
    encoder = randomized(Bilinear(schema, 4, hidden_units=[6, 5], weights=weights, reduction=2))
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, 5)
    squeeze, excite = array(encoder.senet.squeeze.weight), array(encoder.senet.excite.weight)
    assert squeeze.shape == (1, 3)
    for row in range(5):
        e = array(emb[row])
        importance = np.maximum(excite @ np.maximum(squeeze @ e.mean(1), 0), 0)
        inputs = []
        for view, interaction in ((e, encoder.plain), (importance[:, None] * e, encoder.weighted)):
            for (f, g), matrix in zip(PAIRS, MATRICES[weights], strict=True):
                inputs.append((view[f] @ array(interaction.weight[matrix])) * view[g])
        np.testing.assert_allclose(
            array(out[row]), run(encoder.layers, np.array([np.concatenate(inputs)]))[0], atol=1e-9
        )


@pytest.mark.parametrize("weights", ["all", "field", "pair"])
def test_gradients(schema, weights):
    check_gradients(randomized(Bilinear(schema, 4, hidden_units=[6], weights=weights)))


@pytest.mark.parametrize(
    ("options", "message"), [({"weights": "pairs"}, "did you mean 'pair'"), ({"reduction": 0}, "reduction is 0")]
)
def test_invalid_options_are_refused(schema, options, message):
    with pytest.raises(InputError, match=message):
        Bilinear(schema, 4, hidden_units=[6], **options)
