import numpy as np
import pytest
import torch

from layers import array, check_gradients, randomized, run, sigmoid, softmax
from tf4ctr.data.schema import Field, Schema
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.fignn import FiGNN, GRUCell


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("gru", [True, False])
def test_equals_the_formula_step_by_step(schema, shared, gru):
    encoder = randomized(FiGNN(schema, 4, num_layers=2, shared=shared, gru=gru))
    assert len(encoder.steps) == (1 if shared else 2)
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, 1)
    w = array(encoder.edge.weight).ravel()
    for row in range(5):
        e = h = array(emb[row])
        edges = np.zeros((3, 3))
        for f in range(3):
            others = [g for g in range(3) if g != f]
            scores = np.array([w @ np.concatenate([e[f], e[g]]) for g in others])
            edges[f, others] = softmax(np.where(scores > 0, scores, 0.01 * scores))
        for number in range(2):
            step = encoder.steps[0 if shared else number]
            sent = [array(step.outgoing[g]) @ h[g] for g in range(3)]
            a = np.stack(
                [
                    array(step.incoming[f]) @ sum(edges[f, g] * sent[g] for g in range(3)) + array(step.bias)
                    for f in range(3)
                ]
            )
            if gru:
                cell = torch.nn.GRUCell(4, 4).double()
                cell.weight_ih, cell.bias_ih = encoder.gru.input.weight, encoder.gru.input.bias
                cell.weight_hh, cell.bias_hh = encoder.gru.hidden.weight, encoder.gru.hidden.bias
                h = array(cell(torch.from_numpy(a), torch.from_numpy(h))) + e
            else:
                h = a + h + e
        weights = sigmoid(array(encoder.attention.weight) @ h.ravel())
        expected = sum(weights[f] * run([encoder.score], h[f][None])[0, 0] for f in range(3))
        np.testing.assert_allclose(out[row].item(), expected, rtol=1e-9)


@pytest.mark.parametrize("gru", [True, False])
def test_gradients(schema, gru):
    check_gradients(randomized(FiGNN(schema, 4, num_layers=2, gru=gru)))


def test_gru_cell_keeps_its_state_where_the_update_gate_is_1():
    cell = GRUCell(4)
    cell.input.bias.data[4:8] = 50
    a, state = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(cell(a, state), state)


@pytest.mark.parametrize(("fields", "num_layers"), [(1, 1), (3, 0)])
def test_one_field_or_no_layer_is_refused(fields, num_layers):
    schema = Schema("toy", tuple(Field(f"f{i}", 4) for i in range(fields)), "click")
    with pytest.raises(InputError, match="at least one layer and two fields"):
        FiGNN(schema, 4, num_layers)
