"""How ranks share a block: rows, heads and columns over tensor ranks, positions over context ranks.

Tensor ranks: each computes its part of the columns of q, k, v, gate and up from all rows, and its part of the sums of o
and down (Megatron-LM, arXiv:1909.08053). Residuals and norms lie on all of them, or, with parallel.sequence, each holds
its part of the rows (Korthikanti et al. 2022, arXiv:2205.05198). Backwards, `enter` and `leave` change places.

Context ranks: each has its positions' queries, and gathers the keys and values of all.
"""

from dataclasses import dataclass

from dscoder_exp.model.kernels import Function
from dscoder_exp.parallel.collectives import Mesh, identity


@dataclass(frozen=True)
class Sharing:
    """Of one kind of block; alone, all of these hand on what they get."""

    enter: Function  # a rank's rows [N / t, H], or all of them -> all rows [N, H]
    leave: Function  # a rank's part of the sum [N, H] -> the sum, [N / t, H] or [N, H]
    gather_keys: Function  # a rank's positions [B, T / c, k, d] -> [B, T, k, d]
    scatter_keys: Function  # its gradient [B, T, k, d] -> the sum of this rank's positions [B, T / c, k, d]


def make_sharing(mesh: Mesh, *, sequence: bool) -> Sharing:
    """
    Args:
        sequence: whether residuals are cut by rows; decoding has too few.
    """
    tensor, context = mesh.tp_group, mesh.cp_group
    gather, scatter, count = context.all_gather, context.reduce_scatter, context.size

    def gather_keys(x):
        batch, length, heads, size = x.shape
        parts = gather(x).reshape(count, batch, length, heads, size)
        return parts.transpose(1, 0, 2, 3, 4).reshape(batch, count * length, heads, size)

    def scatter_keys(x):
        batch, length, heads, size = x.shape
        parts = x.reshape(batch, count, length // count, heads, size).transpose(1, 0, 2, 3, 4)
        return scatter(parts.reshape(count * batch, length // count, heads, size))

    return Sharing(
        enter=tensor.all_gather if sequence else identity,
        leave=tensor.reduce_scatter if sequence else tensor.all_reduce,
        gather_keys=gather_keys if count > 1 else identity,
        scatter_keys=scatter_keys if count > 1 else identity,
    )
