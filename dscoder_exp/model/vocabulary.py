"""Table lookup and softmax over the vocabulary, which tensor-parallel ranks share.

A rank holds V consecutive ids, from rank * V on: their rows of a table [V, H], and their logits [C, V].
"""

from typing import Any

import mindspore as ms
from mindspore import ops

from dscoder_exp.model.kernels import Kernels
from dscoder_exp.parallel.collectives import ProcessGroup, identity

TINY = 1e-37  # keeps log finite where a probability underflowed

_softmax = ops.Softmax(axis=-1)
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
    """The functions probabilities, subtract_one and all_logits, over all ranks' logits.

    Args:
        count: V, ids of one rank.
    """
    add_at = kernels.add_at
    if ranks.size == 1:

        def subtract_one_alone(p, labels):
            return add_at(p, labels, -ops.ones(labels.shape, p.dtype))

        return _probabilities, subtract_one_alone, identity
    size, all_reduce, all_gather = ranks.size, ranks.all_reduce, ranks.all_gather
    locate = _make_locate(count, ranks)

    def probabilities(scores, labels):
        """Logits fp32 [C, V] -> this rank's columns [C, V] of their softmax over all ranks, and log p[label] [C]."""
        rows, own = locate(labels)
        highest = _max(all_gather(_max(scores, -1)).reshape(size, -1), 0)
        scores = scores - highest.reshape(-1, 1)
        powers: Any = ops.exp(scores)
        picked = (_pick(scores, 1, rows.reshape(-1, 1)) * own).reshape(-1)
        sums = all_reduce(ops.stack((powers.sum(-1), picked)))
        return powers / sums[0].reshape(-1, 1), sums[1] - ops.log(sums[0])

    def subtract_one(p, labels):
        """p [C, V] less 1 at each label: the loss's gradient on the logits."""
        rows, own = locate(labels)
        return add_at(p, rows, -own)

    def all_logits(scores):
        """This rank's logits [C, V] -> those of all ranks [C, size * V]."""
        parts = all_gather(scores).reshape(size, scores.shape[0], count)
        return parts.transpose(1, 0, 2).reshape(scores.shape[0], size * count)

    return probabilities, subtract_one, all_logits


def _make_locate(count: int, ranks: ProcessGroup):
    first = count * ranks.rank

    def locate(ids):
        """ids [C] -> their rows on this rank, 0 for other ranks' ids, and fp32 [C, 1]: 1 for own ids, else 0."""
        rows = ids - first
        own = ops.logical_and(rows >= 0, rows < count)
        own_or_not: Any = ops.cast(own, ms.float32)
        return ops.select(own, rows, ops.zeros_like(rows)), own_or_not.reshape(-1, 1)

    return locate


def _probabilities(scores, labels):
    p = _softmax(scores)
    picked = _pick(p, 1, labels.reshape(-1, 1)).reshape(-1)
    return p, ops.log(ops.maximum(picked, TINY))
