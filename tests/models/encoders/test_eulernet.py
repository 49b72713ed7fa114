import numpy as np
import pytest
import torch

from layers import array, check_gradients, randomized
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.eulernet import EulerNet


@pytest.mark.parametrize("vectors", [[3], [2, 5]])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_equals_the_formula_in_complex_numbers(schema, vectors, layer_norm):
    encoder = randomized(EulerNet(schema, 4, vectors, dropout=0.5, layer_norm=layer_norm))
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, vectors[-1] * 4)
    for row in range(5):
        c = array(encoder.scale_F1) * np.exp(1j * array(emb[row]))
        for layer in encoder.layers:
            a, shape = array(layer.order), (layer.order.shape[1], 4)
            explicit = np.zeros(shape, complex)
            for j in range(shape[0]):
                # powers of complex numbers, with the principal value of the phase
                explicit[j] = np.prod([c[i] ** a[i, j] for i in range(len(c))], 0)
            explicit *= np.exp(array(layer.modulus_bias) + 1j * array(layer.phase_bias))
            w, v = array(layer.implicit.weight), array(layer.implicit.bias)
            real, imaginary = (np.maximum(w @ part.ravel() + v, 0).reshape(shape) for part in (c.real, c.imag))
            real, imaginary = explicit.real + real, explicit.imag + imaginary
            if layer_norm:
                real, imaginary = (
                    array(norm(torch.from_numpy(part)))
                    for norm, part in zip(layer.norms, (real, imaginary), strict=True)
                )
            c = real + 1j * imaginary
        # the modulus has 1e-8 added to its square
        np.testing.assert_allclose(array(out[row]), (c.real + c.imag).ravel(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_gradients(schema, layer_norm):
    check_gradients(randomized(EulerNet(schema, 4, [3, 2], layer_norm=layer_norm)))


def test_starts_with_the_identity_or_with_one_input_per_vector(schema):
    same, fewer = EulerNet(schema, 4, [3, 2]).layers
    assert torch.equal(same.order.detach(), torch.eye(3))
    torch.testing.assert_close(fewer.order.detach().sum(0), torch.ones(2))
    assert (fewer.order > 0.9).any(0).all()


def test_dropout_is_used_in_training(schema):
    encoder, emb = EulerNet(schema, 4, [2], dropout=0.5), torch.randn(9, 3, 4)
    assert not torch.equal(encoder.train()(emb, None), encoder.eval()(emb, None))


@pytest.mark.parametrize("options", [([],), ([2, 0],), ([2], 1.0)])
def test_invalid_options_are_refused(schema, options):
    with pytest.raises(InputError, match="at least one layer"):
        EulerNet(schema, 4, *options)
