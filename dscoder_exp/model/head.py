"""The two ends of the model: token embedding in, final norm, logits and loss out.

The loss works on a chunk of rows at a time, and only on rows whose label counts, so that a chunk's logits [C, V] are
all of the vocabulary's size that ever exists. With p = softmax(logits) the gradient of sum(-log p[label]) on them is
p - onehot(label), and 1 is taken off in fp32: of a p[label] near 1 that was rounded first, nothing exact is left. Where
tensor ranks share the vocabulary, V is a rank's part of it.
"""

from typing import Any

import mindspore as ms
from mindspore import ops

from dscoder_exp.model.kernels import MASKED, Kernels
from dscoder_exp.model.tensor_parallel import Sharing
from dscoder_exp.model.vocabulary import make_vocabulary
from dscoder_exp.parallel.collectives import ProcessGroup
from dscoder_exp.schema.llama import LlamaConfig

_add = ops.AssignAdd()


def make_head(config: LlamaConfig, kernels: Kernels, sharing: Sharing, tensor: ProcessGroup, dtype: ms.Type):
    """embed, cached_embed, embed_backward, logits, loss and loss_backward. `table` is the head's matrix [V, H]; C rows
    a chunk. What writes in place returns something small: MindSpore copies what a graph puts out of its inputs.

    Args:
        config: of this rank's part.
        tensor: of the ranks that share the vocabulary.
        dtype: what activations are computed in.
    """
    eps, key_heads = config.rms_norm_eps, config.num_key_value_heads
    linear, linear_dx, linear_dweight = kernels.linear, kernels.linear_dx, kernels.linear_dweight
    rms_norm, rms_norm_backward = kernels.rms_norm, kernels.rms_norm_backward
    take_rows, add_rows = kernels.take_rows, kernels.add_rows
    enter, leave, all_reduce = sharing.enter, sharing.leave, tensor.all_reduce
    take, add, probabilities, less_one, all_logits = make_vocabulary(config.vocab_size, kernels, tensor)

    def embed(ids, positions, embedding, cos_table, sin_table):
        """ids, positions [B, T] -> x, [B T, H] or this rank's rows of it; cos and sin [B, T, 1, d]."""
        batch, length = ids.shape
        places = positions.reshape(-1)
        cos = take_rows(cos_table, places).reshape(batch, length, 1, -1)
        sin = take_rows(sin_table, places).reshape(batch, length, 1, -1)
        return leave(ops.cast(take(embedding, ids.reshape(-1)), dtype)), cos, sin

    def cached_embed(ids, positions, embedding, cos_table, sin_table, slots):
        """ids, positions [1, T] of one sequence, slots 0, 1, … [S] -> what `embed` gives, and what `cached_forward` of
        a block takes as mask [T, S] and places [k T, 2].
        """
        heads: Any = ops.cast(ops.arange(key_heads), ms.int32)
        heads, places = heads.reshape(-1, 1, 1), positions.reshape(1, -1, 1)
        later: Any = ops.cast(slots.reshape(1, -1) > positions.reshape(-1, 1), ms.float32)
        where = ops.concat((heads + ops.zeros_like(places), places + ops.zeros_like(heads)), -1)
        return (
            *embed(ids, positions, embedding, cos_table, sin_table),
            later * MASKED,
            where.reshape(-1, 2),
        )

    def embed_backward(dx, ids, dembedding):
        """Adds dx to the rows `ids` of dembedding [V, H], in place."""
        add(dembedding, ids.reshape(-1), ops.cast(enter(dx), dembedding.dtype))
        return ids

    def logits(x, norm, table):
        """x [N, H] -> fp32 [N, all of the vocabulary]."""
        return ops.cast(all_logits(linear(rms_norm(x, norm, eps)[0], table)), ms.float32)

    def chunk(x, rows, labels, counts, norm, table):
        """The chunk's rows of x, normed rows, rstd, probabilities [C, V], and summed loss (nats) [1]."""
        taken = take_rows(x, rows)
        y, rstd = rms_norm(taken, norm, eps)
        p, likelihood = probabilities(ops.cast(linear(y, table), ms.float32), labels)
        losses: Any = likelihood * ops.cast(counts, ms.float32)
        summed = -losses.sum().reshape(1)
        return taken, y, rstd, p, summed

    def loss(x, rows, labels, counts, norm, table, total):
        """Adds the sum of -log p[label] over the chunk to total, fp32 [1], in place.

        rows, labels, counts: int32 [C]; counts is 1, or 0 for a filler.
        """
        summed = chunk(x, rows, labels, counts, norm, table)[4]
        _add(total, summed)
        return summed

    def loss_backward(x, rows, labels, counts, factor, norm, table, total, dx, *trained):
        """As `loss`; its gradients times factor are added in place to dx [N, H], dnorm [H] and dtable [V, H]."""
        taken, y, rstd, p, summed = chunk(x, rows, labels, counts, norm, table)
        weights: Any = ops.cast((ops.cast(counts, ms.float32) * factor).reshape(-1, 1), y.dtype)
        dlogits = ops.cast(less_one(p, labels), y.dtype)
        dy = all_reduce(linear_dx(dlogits, table) * weights)
        drows, dweight = rms_norm_backward(dy, taken, rstd, norm)
        if len(trained) > 0:  # none of it is, beside LoRA's factors
            dnorm, dtable = trained
            _add(dtable, ops.cast(linear_dweight(dlogits, y * weights), dtable.dtype))
            _add(dnorm, dweight)
        add_rows(dx, rows, drows)
        _add(total, summed)
        return summed

    return embed, cached_embed, embed_backward, logits, loss, loss_backward
