import numpy as np
import pytest
import torch

from layers import array, randomized
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.attention import Attention


def test_equals_attention_per_head_and_field(schema):
    encoder = Attention(schema, 4, num_layers=2, units=6, num_heads=2).double()
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, 18)
    for row in range(5):
        e = emb[row].numpy()
        for layer in encoder.layers:
            query, key, value, residual = (
                e @ linear.weight.detach().numpy().T for linear in (layer.query, layer.key, layer.value, layer.residual)
            )
            attended = np.zeros((3, 6))
            for head in (slice(0, 3), slice(3, 6)):
                for f in range(3):
                    score = np.exp([query[f, head] @ key[g, head] for g in range(3)])
                    attended[f, head] = sum(score[g] / score.sum() * value[g, head] for g in range(3))
            e = np.maximum(attended + residual, 0)
        np.testing.assert_allclose(out[row].detach(), e.ravel(), atol=1e-10)


def test_scores_are_scaled_and_a_layer_norm_precedes_the_relu(schema):
    encoder = randomized(Attention(schema, 4, 1, units=6, num_heads=2, scale=True, dropout=0.5, layer_norm=True))
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    (layer,) = encoder.layers
    for row, out in enumerate(encoder(emb, None)):
        query, key, value, summed = (
            array(emb[row]) @ array(part.weight).T for part in (layer.query, layer.key, layer.value, layer.residual)
        )
        for head in (slice(0, 3), slice(3, 6)):
            for f in range(3):
                score = np.exp([query[f, head] @ key[g, head] / 3**0.5 for g in range(3)])
                summed[f, head] += sum(score[g] / score.sum() * value[g, head] for g in range(3))
        normed = (summed - summed.mean(1, keepdims=True)) / np.sqrt(summed.var(1, keepdims=True) + layer.norm.eps)
        expected = np.maximum(normed * array(layer.norm.weight) + array(layer.norm.bias), 0)
        np.testing.assert_allclose(array(out), expected.ravel(), atol=1e-9)


def test_dropout_is_used_in_training(schema):
    encoder, emb = Attention(schema, 4, 1, 6, 2, dropout=0.5), torch.randn(9, 3, 4)
    assert not torch.equal(encoder.train()(emb, None), encoder.eval()(emb, None))


def test_gradients(schema):
    encoder = Attention(schema, 4, num_layers=2, units=6, num_heads=3).double()
    assert torch.autograd.gradcheck(
        lambda emb: encoder(emb, None), torch.randn(4, 3, 4, dtype=torch.float64, requires_grad=True)
    )


@pytest.mark.parametrize("options", [(0, 6, 2), (1, 5, 2), (1, 6, 0), (1, 6, 2, False, 1.0)])
def test_invalid_options_are_refused(schema, options):
    with pytest.raises(InputError, match="units a multiple of num_heads"):
        Attention(schema, 4, *options)
