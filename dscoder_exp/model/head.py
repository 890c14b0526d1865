"""The two ends of the model: token embedding in, final norm, logits and loss out.

The loss works on a chunk of rows at a time, and only on rows whose label counts, so that a chunk's logits [C, V] are
all of the vocabulary's size that ever exists. With p = softmax(logits) and y the normed rows, the gradient of
sum(-log p[label]) is (p - onehot(label)) on the logits; it is never formed: its products with the table are those of
p, less one gathered or scattered row a label. Where tensor ranks share the vocabulary, V is a rank's part of it.
"""

from typing import Any

import mindspore as ms
from mindspore import ops

from dscoder_exp.model.kernels import Kernels
from dscoder_exp.model.sharing import Sharing
from dscoder_exp.model.vocabulary import make_vocabulary
from dscoder_exp.parallel.collectives import Collectives
from dscoder_exp.schema.llama import LlamaConfig

_gather = ops.Gather()
_add = ops.AssignAdd()
_add_rows = ops.ScatterAdd()


def make_head(config: LlamaConfig, kernels: Kernels, sharing: Sharing, tensor: Collectives, dtype: ms.Type):
    """embed, embed_backward, logits, loss and loss_backward. `table` is the head's matrix [V, H]; C rows a chunk.

    Args:
        config: of this rank's part.
        tensor: of the ranks that share the vocabulary.
        dtype: what activations are computed in.
    """
    eps = config.rms_norm_eps
    linear, linear_dx, linear_dweight = kernels.linear, kernels.linear_dx, kernels.linear_dweight
    rms_norm, rms_norm_backward = kernels.rms_norm, kernels.rms_norm_backward
    enter, leave, all_reduce = sharing.enter, sharing.leave, tensor.all_reduce
    take, add, probabilities, all_logits = make_vocabulary(config.vocab_size, tensor)

    def embed(ids, embedding):
        """ids [N] -> x, [N, H] or this rank's rows of it."""
        return leave(ops.cast(take(embedding, ids), dtype))

    def embed_backward(dx, ids, dembedding):
        """Adds dx to the rows `ids` of dembedding [V, H], in place."""
        return add(dembedding, ids, ops.cast(enter(dx), dembedding.dtype))

    def logits(x, norm, table):
        """x [N, H] -> fp32 [N, all of the vocabulary]."""
        return ops.cast(all_logits(linear(rms_norm(x, norm, eps)[0], table)), ms.float32)

    def chunk(x, rows, labels, counts, norm, table):
        """The chunk's rows of x, normed rows, rstd, probabilities [C, V], and summed loss (nats)."""
        taken = _gather(x, rows, 0)
        y, rstd = rms_norm(taken, norm, eps)
        p, likelihood = probabilities(ops.cast(linear(y, table), ms.float32), labels)
        losses: Any = likelihood * counts
        summed = -losses.sum()
        return taken, y, rstd, p, summed

    def loss(x, rows, labels, counts, norm, table):
        """Sum of -log p[label] over the chunk: rows, labels int32 [C]; counts fp32 [C], 0 for a filler."""
        return chunk(x, rows, labels, counts, norm, table)[4]

    def loss_backward(x, rows, labels, counts, factor, norm, table, dx, *trained):
        """As `loss`; its gradients times factor are added in place to dx [N, H], dnorm [H] and dtable [V, H]."""
        taken, y, rstd, p, summed = chunk(x, rows, labels, counts, norm, table)
        weights: Any = ops.cast((counts * factor).reshape(-1, 1), y.dtype)
        p = ops.cast(p, y.dtype)
        dy = all_reduce((linear_dx(p, table) - ops.cast(take(table, labels), y.dtype)) * weights)
        drows, dweight = rms_norm_backward(dy, taken, rstd, norm)
        if len(trained) > 0:  # none of it is, beside LoRA's factors
            dnorm, dtable = trained
            counted: Any = y * weights
            _add(dtable, linear_dweight(p, counted))
            add(dtable, labels, ops.cast(-counted, dtable.dtype))
            _add(dnorm, dweight)
        _add_rows(dx, rows, drows)
        return summed

    return embed, embed_backward, logits, loss, loss_backward
