"""Table lookup and softmax over the vocabulary, which tensor-parallel ranks share.

A rank holds V consecutive ids, from rank * V on: their rows of a table [V, H], and their logits [C, V].
"""

from typing import Any

import mindspore as ms
from mindspore import ops

from dscoder_exp.model.kernels import Kernels
from dscoder_exp.parallel.collectives import ProcessGroup, identity, in_fp32

_pick = ops.GatherD()
_max: Any = ops.ReduceMax()


def make_lookup(count: int, kernels: Kernels, ranks: ProcessGroup):
    """The functions take(table, ids) and add(table, ids, x).

    Args:
        count: V, ids of one rank.
    """
    take_rows, add_rows = kernels.take_rows, kernels.add_rows
    if ranks.size == 1:
        return take_rows, add_rows
    locate = _make_locate(count, ranks)

    def take(table, ids):
        """Rows `ids` [C] of the table as [C, H], zeros for other ranks' ids: the sum over ranks is complete."""
        rows, own = locate(ids)
        return take_rows(table, rows) * ops.cast(own, table.dtype)

    def add(table, ids, x):
        """Add x [C, H] to this rank's rows among `ids`, in place."""
        rows, own = locate(ids)
        add_rows(table, rows, x * own)

    return take, add


def make_softmax(count: int, kernels: Kernels, ranks: ProcessGroup):
    """The functions softmax_gradient (of the kernel table, over all ranks' logits) and all_logits.

    Args:
        count: V, ids of one rank.
    """
    if ranks.size == 1:
        return kernels.softmax_gradient, identity
    add_at, widen, narrow = kernels.add_at, kernels.widen, kernels.narrow
    size, all_reduce, all_gather = ranks.size, ranks.all_reduce, ranks.all_gather
    locate = _make_locate(count, ranks)

    def softmax_gradient(scores, labels):
        """Logits [C, V] -> this rank's columns [C, V] of the result, and log p[label] [C]."""
        wide, (rows, own) = widen(scores), locate(labels)
        highest = _max(all_gather(_max(wide, -1)).reshape(size, -1), 0)
        wide = wide - highest.reshape(-1, 1)
        powers: Any = ops.exp(wide)
        picked = (_pick(wide, 1, rows.reshape(-1, 1)) * own).reshape(-1)
        sums = all_reduce(ops.stack((powers.sum(-1), picked)))
        p = powers / sums[0].reshape(-1, 1)
        return narrow(add_at(p, rows, -own), scores), sums[1] - ops.log(sums[0])

    def all_logits(scores):
        """This rank's logits [C, V] -> those of all ranks [C, size * V]."""
        parts = all_gather(scores).reshape(size, scores.shape[0], count)
        return parts.transpose(1, 0, 2).reshape(scores.shape[0], size * count)

    return softmax_gradient, in_fp32(all_logits) if ranks.device == "cpu" else all_logits


def _make_locate(count: int, ranks: ProcessGroup):
    first = count * ranks.rank

    def locate(ids):
        """ids [C] -> their rows on this rank, 0 for other ranks' ids, and fp32 [C, 1]: 1 for own ids, else 0."""
        rows = ids - first
        own = ops.logical_and(rows >= 0, rows < count)
        own_or_not: Any = ops.cast(own, ms.float32)
        return ops.select(own, rows, ops.zeros_like(rows)), own_or_not.reshape(-1, 1)

    return locate
