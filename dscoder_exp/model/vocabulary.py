"""What is done by token id: rows of a table taken and added to, probabilities; over tensor ranks that share the ids.

A rank has the ids from rank * V on, V of them: their rows of a table [V, H], and their logits [C, V].
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


def make_vocabulary(count: int, kernels: Kernels, ranks: ProcessGroup):
    """take, add, probabilities, less_one and all_logits.

    Args:
        count: V, of a rank.
    """
    take_rows, add_rows, add_at = kernels.take_rows, kernels.add_rows, kernels.add_at
    if ranks.size == 1:

        def less_one_each(p, labels):
            return add_at(p, labels, -ops.ones(labels.shape, p.dtype))

        return take_rows, add_rows, _probabilities, less_one_each, identity
    first, size, all_reduce, all_gather = count * ranks.rank, ranks.size, ranks.all_reduce, ranks.all_gather

    def own(ids):
        """The rows of these ids, 0 for those of other ranks; and 1 or 0, fp32 [C, 1], whether they are this one's."""
        rows = ids - first
        mine = ops.logical_and(rows >= 0, rows < count)
        mine_or_not: Any = ops.cast(mine, ms.float32)
        return ops.select(mine, rows, ops.zeros_like(rows)), mine_or_not.reshape(-1, 1)

    def take(table, ids):
        """The rows of ids [C], zeros for those of other ranks: summed over ranks they are [C, H]."""
        rows, mine = own(ids)
        return take_rows(table, rows) * ops.cast(mine, table.dtype)

    def add(table, ids, x):
        """Add x [C, H] to the rows, in place."""
        rows, mine = own(ids)
        add_rows(table, rows, x * mine)

    def probabilities(scores, labels):
        """Logits fp32 [C, V] -> their softmax over all ranks' [C, V], and the label's logarithm [C]."""
        rows, mine = own(labels)
        highest = _max(all_gather(_max(scores, -1)).reshape(size, -1), 0)
        scores = scores - highest.reshape(-1, 1)
        powers: Any = ops.exp(scores)
        picked = (_pick(scores, 1, rows.reshape(-1, 1)) * mine).reshape(-1)
        sums = all_reduce(ops.stack((powers.sum(-1), picked)))
        return powers / sums[0].reshape(-1, 1), sums[1] - ops.log(sums[0])

    def less_one(p, labels):
        """p [C, V] less 1 at each label: the loss's gradient on the logits."""
        rows, mine = own(labels)
        return add_at(p, rows, -mine)

    def all_logits(scores):
        """[C, V] -> those of all ranks [C, size * V]."""
        parts = all_gather(scores).reshape(size, scores.shape[0], count)
        return parts.transpose(1, 0, 2).reshape(scores.shape[0], size * count)

    return take, add, probabilities, less_one, all_logits


def _probabilities(scores, labels):
    p = _softmax(scores)
    likelihood = _pick(p, 1, labels.reshape(-1, 1)).reshape(-1)
    return p, ops.log(ops.maximum(likelihood, TINY))
