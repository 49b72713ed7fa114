"""Field-aware factorization machine (Juan et al., RecSys 2016)."""

from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.inner_product import field_pairs
from tf4ctr.models.encoders.linear import Linear, TableFactory
from tf4ctr.models.inputs import Inputs


class FieldAwareProducts(nn.Module):
    """<v_fg, v_gf> for each of the P pairs f < g.

    Every value has F - 1 embeddings of size k: v_fg is the embedding of field f's value for the
    pair with field g. They are one row of (F - 1) k numbers in a table of this module. There
    numbers and histories become embeddings by the default options of `number` and `sequence`.

    Args:
        dim: k.
        init_std: standard deviation of the initial values.
        table: builds the table.

    Raises:
        InputError: k is below 1, or the dataset has one field.
    """

    pairs_2P: Tensor

    def __init__(self, schema: Schema, dim: int, init_std: float, table: TableFactory = FieldEmbedding) -> None:
        super().__init__()
        if dim < 1:
            raise InputError(f"pair_dim is {dim}: the embedding of a pair needs at least one number")
        self.register_buffer("pairs_2P", field_pairs(schema), persistent=False)
        self.dim = dim
        self.table = table(schema, (schema.num_fields - 1) * dim, init_std=init_std)

    def forward(self, x: Inputs) -> Tensor:
        """-> [B, P]"""
        emb_BFGK = self.table(*x).unflatten(2, (-1, self.dim))  # G = F - 1, the other fields in their order
        left_P, right_P = self.pairs_2P
        return (emb_BFGK[:, left_P, right_P - 1] * emb_BFGK[:, right_P, left_P]).sum(2)


class FFM(nn.Module):
    """y = b + sum_f w[x_f] + sum_(f < g) <v_fg, v_gf>, see FieldAwareProducts.

    The network's embeddings are not used.

    Args:
        pair_dim: size of an embedding v.
        init_std: standard deviation of the initial values of v.
        table: builds the tables of v and of the linear part.
    """

    out_features = 1
    uses_embeddings = False
    has_table = True

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        pair_dim: int,
        init_std: float = 1e-4,
        table: TableFactory = FieldEmbedding,
    ) -> None:
        super().__init__()
        self.linear = Linear(schema, embedding_dim, table)
        self.products = FieldAwareProducts(schema, pair_dim, init_std, table)

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, 1]"""
        return self.linear(emb_BFD, x) + self.products(x).sum(1, keepdim=True)
