import pytest
import torch

from tf4ctr.data.schema import VECTORS, Field, Schema
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.vectors import GivenVectors, VectorsOfValues


def test_a_given_vector_is_projected_and_a_missing_one_is_learned():
    module = GivenVectors(3, 2).double()
    with torch.no_grad():
        module.missing.copy_(torch.tensor([5.0, 6.0]))
    vectors = torch.randn(4, 3, dtype=torch.float64)
    vectors[1, 2] = torch.nan
    out = module(vectors)
    weight, bias = module.projection.weight, module.projection.bias
    for row in (0, 2, 3):
        torch.testing.assert_close(out[row], weight @ vectors[row] + bias)
    assert out[1].tolist() == [5, 6]
    vectors = vectors.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: module(torch.where(v.isnan(), torch.nan, v)), vectors[[0, 2, 3]])
    gradient = torch.autograd.grad(module(vectors).square().sum(), [vectors, module.missing])
    assert (gradient[0][1] == 0).all()
    assert gradient[1].tolist() == [10, 12]


@pytest.mark.parametrize("frozen", [True, False])
def test_vectors_of_values_are_looked_up(frozen):
    module = VectorsOfValues(3, 4, 2, frozen)
    table = torch.randn(3, 4)
    table[1] = torch.nan
    module.load(table)
    out = module(torch.tensor([0, 1, 2, 3, 4], dtype=torch.int32))
    torch.testing.assert_close(out[[1, 3]], module.given.projection(table[[0, 2]]))
    assert torch.equal(out[[0, 2, 4]], module.given.missing.expand(3, 2))
    out.sum().backward()
    assert ("table_NV" in dict(module.named_parameters())) is not frozen
    assert torch.isfinite(module.table_NV).all()
    if not frozen:
        assert (module.table_NV.grad[[0, 2, 4]] == 0).all()
    other = VectorsOfValues(3, 4, 2, frozen)
    other.load_state_dict(module.state_dict())  # a checkpoint has the vectors
    assert torch.equal(other(torch.tensor([1, 2])), module(torch.tensor([1, 2])))


def test_vectors_are_fields_in_the_order_of_the_schema():
    image = Field("image", 0, 2, VECTORS)
    text = Field("text", 0, 3, VECTORS, of="item")
    schema = Schema("toy", (image, Field("user", 4), text, Field("item", 5)), "click")
    assert schema.number_columns == ["image.0", "image.1"]
    embedding = FieldEmbedding(schema, 4, init_std=1.0)
    embedding.vectors_of("text").load(torch.randn(3, 3))
    ids, numbers = torch.tensor([[1, 5], [3, 8]], dtype=torch.int32), torch.randn(2, 2)
    out = embedding(ids, numbers)
    torch.testing.assert_close(out[:, 0], embedding.vectors_of("image")(numbers))
    torch.testing.assert_close(out[:, 1], embedding.weight[[1, 3]])
    torch.testing.assert_close(out[:, 2], embedding.vectors_of("text")(torch.tensor([1, 4])))
    torch.testing.assert_close(out[:, 3], embedding.weight[[5, 8]])
