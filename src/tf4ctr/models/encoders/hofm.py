"""Higher-order factorization machine (Blondel et al., NIPS 2016)."""

from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.deepim import check_order, interactions
from tf4ctr.models.encoders.linear import Linear, TableFactory
from tf4ctr.models.inputs import Inputs


class HOFM(nn.Module):
    """y = b + sum_f w[x_f] + sum_(m = 2..M) sum_d A_m(e_1d, ..., e_Fd).

    A_m is the ANOVA kernel, the sum over all sets of m fields of the product of their numbers. It
    is computed by Newton's identities, see deepim.py, instead of the paper's recursion over fields.
    The second order reads the network's embeddings.

    Args:
        order: M.
        shared: whether the higher orders read these embeddings too; if not, each has a table of its
            own, as in the paper. There numbers and histories become embeddings by the default
            options of `number` and `sequence`.
        init_std: standard deviation of the initial values of these tables.
        table: builds these tables, and that of the linear part.

    Raises:
        InputError: the order is below 2 or above the number of fields.
    """

    out_features = 1
    has_table = True

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        order: int,
        shared: bool = False,
        init_std: float = 1e-4,
        table: TableFactory = FieldEmbedding,
    ) -> None:
        super().__init__()
        check_order(order, 2, schema)
        self.order = order
        self.linear = Linear(schema, embedding_dim, table)
        further = 0 if shared else order - 2
        self.tables = nn.ModuleList(table(schema, embedding_dim, init_std=init_std) for _ in range(further))

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, 1]"""
        if self.tables:
            by_order = [emb_BFD, *(table(*x) for table in self.tables)]
            kernels = [interactions(emb, order)[-1] for order, emb in enumerate(by_order, 2)]
        else:
            kernels = interactions(emb_BFD, self.order)[1:]
        return self.linear(emb_BFD, x) + sum(kernels[1:], kernels[0]).sum(1, keepdim=True)
