"""The collectives inside a block, over tensor-parallel and context-parallel ranks.

Tensor parallelism: each rank computes its columns of q, k, v, gate and up from all rows, and a partial sum of the
outputs of o and down (Megatron-LM, arXiv:1909.08053). Residuals and norms are replicated or, with parallel.sequence,
split by rows (Korthikanti et al. 2022, arXiv:2205.05198). In the backward pass `gather_rows` and `reduce_rows` swap
places.

Context parallelism: each rank has the queries of its positions, and gathers the keys and values of all positions.
"""

from dataclasses import dataclass

from dscoder_exp.model.kernels import Function
from dscoder_exp.parallel.collectives import Mesh, identity, in_fp32


@dataclass(frozen=True)
class BlockCollectives:
    """The collectives that a block calls; each is the identity where it has only one rank."""

    gather_rows: Function  # this rank's rows [N / t, H] -> all rows [N, H]; identity where rows are replicated
    reduce_rows: Function  # this rank's partial sum [N, H] -> the sum over ranks, its rows [N / t, H] or all [N, H]
    gather_kv: Function  # k or v of this rank's positions [B, T / c, k, d] -> of all positions [B, T, k, d]
    reduce_kv: Function  # gradient of gather_kv's output [B, T, k, d] -> summed, this rank's positions [B, T / c, k, d]


def make_block_collectives(mesh: Mesh, *, sequence: bool) -> BlockCollectives:
    """
    Args:
        sequence: whether residuals are split by rows over tensor ranks. Not for decoding, which has too few rows.
    """
    tensor, context = mesh.tp_group, mesh.cp_group
    gather, scatter, count = context.all_gather, context.reduce_scatter, context.size

    def gather_kv(x):
        batch, length, heads, size = x.shape
        parts = gather(x).reshape(count, batch, length, heads, size)
        return parts.transpose(1, 0, 2, 3, 4).reshape(batch, count * length, heads, size)

    def reduce_kv(x):
        batch, length, heads, size = x.shape
        parts = x.reshape(batch, count, length // count, heads, size).transpose(1, 0, 2, 3, 4)
        return scatter(parts.reshape(count * batch, length // count, heads, size))

    exchange = in_fp32 if context.device == "cpu" else identity
    return BlockCollectives(
        gather_rows=tensor.all_gather if sequence else identity,
        reduce_rows=tensor.reduce_scatter if sequence else tensor.all_reduce,
        gather_kv=exchange(gather_kv) if count > 1 else identity,
        reduce_kv=exchange(reduce_kv) if count > 1 else identity,
    )
