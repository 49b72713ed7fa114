import numpy as np
import pytest
import torch

from layers import array, check_gradients, randomized, run
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.masknet import ParallelMaskNet, SerialMaskNet


def normalized(x):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5)


def block(module, instance, hidden):
    mask = run(module.mask, instance[None])[0]
    out = array(module.linear.weight) @ (mask * hidden)
    return np.maximum(normalized(out) * array(module.norm.weight) + array(module.norm.bias), 0)


def normalized_fields(encoder, e):
    if isinstance(encoder.norm, torch.nn.Identity):
        return e.ravel()
    rows = [normalized(e[f]) * array(encoder.norm.gain[f]) + array(encoder.norm.bias[f]) for f in range(len(e))]
    return np.concatenate(rows)


@pytest.mark.parametrize("embedding_norm", [True, False])
def test_parallel_equals_the_concatenated_blocks_then_an_mlp(schema, embedding_norm):
    options = {"ratio": 0.5, "block_dropout": 0.5, "embedding_norm": embedding_norm}
    encoder = randomized(ParallelMaskNet(schema, 4, block_units=[5, 3], hidden_units=[6, 4], **options))
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, 4)
    assert encoder.blocks[0].mask[0].weight.shape == (6, 12)
    for row in range(5):
        e = array(emb[row])
        blocks = [block(module, e.ravel(), normalized_fields(encoder, e)) for module in encoder.blocks]
        np.testing.assert_allclose(array(out[row]), run(encoder.layers, np.concatenate(blocks)[None])[0], atol=1e-9)


def test_serial_equals_the_blocks_in_series(schema):
    encoder = randomized(SerialMaskNet(schema, 4, block_units=[5, 3]))
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, 3)
    for row in range(5):
        e = array(emb[row])
        hidden = normalized_fields(encoder, e)
        for module in encoder.blocks:
            hidden = block(module, e.ravel(), hidden)
        np.testing.assert_allclose(array(out[row]), hidden, atol=1e-9)


@pytest.mark.parametrize(
    "make", [lambda schema: ParallelMaskNet(schema, 4, [5, 3], [6]), lambda schema: SerialMaskNet(schema, 4, [5, 3])]
)
def test_gradients(schema, make):
    check_gradients(randomized(make(schema)))


def test_dropout_of_the_blocks_is_used_in_training(schema):
    encoder, emb = ParallelMaskNet(schema, 4, [50], [6], batch_norm=False, block_dropout=0.5), torch.randn(9, 3, 4)
    assert not torch.equal(encoder.train()(emb, None), encoder.eval()(emb, None))
    with pytest.raises(InputError, match="block_dropout is 1.0"):
        ParallelMaskNet(schema, 4, [5], [6], block_dropout=1.0)


@pytest.mark.parametrize("options", [([], 1.0), ([5, 0], 1.0), ([5], 0)])
def test_invalid_options_are_refused(schema, options):
    with pytest.raises(InputError, match="at least one mask block"):
        SerialMaskNet(schema, 4, *options)
