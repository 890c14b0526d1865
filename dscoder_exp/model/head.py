"""Both ends of the model: the token embedding, and the final norm with logits and loss.

The loss is computed for a chunk of C rows at a time, and only for rows whose label counts, so no array of logits larger
than [C, V] exists. With p = softmax(logits), the gradient of sum(-log p[label]) on the logits is p - onehot(label). The
1 is subtracted in fp32: rounded to bf16 first, a p[label] near 1 would leave no correct digits. Where tensor-parallel
ranks share the vocabulary, V is one rank's part.

Functions that write in place return something small: MindSpore copies an input that a graph returns.
"""

from typing import Any

import mindspore as ms
from mindspore import ops

from dscoder_exp.model.kernels import MASKED, Kernels
from dscoder_exp.model.tensor_parallel import BlockCollectives
from dscoder_exp.model.vocabulary import make_lookup, make_softmax
from dscoder_exp.parallel.collectives import ProcessGroup
from dscoder_exp.schema.llama import LlamaConfig

_add = ops.AssignAdd()


def make_embedding(
    config: LlamaConfig, kernels: Kernels, collectives: BlockCollectives, tensor: ProcessGroup, dtype: ms.Type
):
    """The functions embed and embed_backward.

    Args:
        config: of this rank's part.
        tensor: group of the ranks that share the vocabulary.
        dtype: of x.
    """
    take_rows = kernels.take_rows
    gather_rows, reduce_rows = collectives.gather_rows, collectives.reduce_rows
    take, add = make_lookup(config.vocab_size, kernels, tensor)

    def embed(ids, positions, embedding, cos_table, sin_table):
        """ids, positions [B, T] -> x, [B T, H] or this rank's rows of it, and cos and sin [B, T, 1, d]."""
        batch, length = ids.shape
        flat = positions.reshape(-1)
        cos = take_rows(cos_table, flat).reshape(batch, length, 1, -1)
        sin = take_rows(sin_table, flat).reshape(batch, length, 1, -1)
        return reduce_rows(ops.cast(take(embedding, ids.reshape(-1)), dtype)), cos, sin

    def embed_backward(dx, ids, dembedding):
        """Add dx to the rows `ids` of dembedding [V, H], in place."""
        add(dembedding, ids.reshape(-1), ops.cast(gather_rows(dx), dembedding.dtype))
        return ids

    return embed, embed_backward


def make_cached_embed(
    config: LlamaConfig, kernels: Kernels, collectives: BlockCollectives, tensor: ProcessGroup, dtype: ms.Type
):
    """The function cached_embed, which prepares the inputs of block.py's cached_run."""
    kv_heads = config.num_key_value_heads
    embed, _ = make_embedding(config, kernels, collectives, tensor, dtype)

    def cached_embed(ids, positions, embedding, cos_table, sin_table, slots):
        """ids, positions [1, T] of one sequence, slots 0, 1, … [S], the cache's positions -> the results of `embed`,
        and cached_run's mask [T, S] and indices [k T, 2].
        """
        heads: Any = ops.cast(ops.arange(kv_heads), ms.int32)
        heads, written = heads.reshape(-1, 1, 1), positions.reshape(1, -1, 1)
        later: Any = ops.cast(slots.reshape(1, -1) > positions.reshape(-1, 1), ms.float32)
        indices = ops.concat((heads + ops.zeros_like(written), written + ops.zeros_like(heads)), -1)
        return (
            *embed(ids, positions, embedding, cos_table, sin_table),
            later * MASKED,
            indices.reshape(-1, 2),
        )

    return cached_embed


def make_head(config: LlamaConfig, kernels: Kernels, tensor: ProcessGroup):
    """The functions logits, loss and loss_backward. Their `table` is the head's matrix [V, H].

    Args:
        config: of this rank's part.
        tensor: group of the ranks that share the vocabulary.
    """
    eps, all_reduce = config.rms_norm_eps, tensor.all_reduce
    linear, linear_dx, add_linear_dweight = kernels.linear, kernels.linear_dx, kernels.add_linear_dweight
    rms_norm, rms_norm_backward = kernels.rms_norm, kernels.rms_norm_backward
    take_rows, add_rows, widen = kernels.take_rows, kernels.add_rows, kernels.widen
    softmax_gradient, all_logits = make_softmax(config.vocab_size, kernels, tensor)

    def logits(x, norm, table):
        """x [N, H] -> fp32 [N, whole vocabulary]."""
        return widen(all_logits(linear(rms_norm(x, norm, eps)[0], table)))

    def chunk(x, rows, labels, counts, norm, table):
        """The chunk's rows of x, normed rows, rstd, gradient on the logits [C, V], and summed loss (nats) [1]."""
        taken = take_rows(x, rows)
        y, rstd = rms_norm(taken, norm, eps)
        dlogits, log_p = softmax_gradient(linear(y, table), labels)
        losses: Any = log_p * ops.cast(counts, ms.float32)
        summed = -losses.sum().reshape(1)
        return taken, y, rstd, dlogits, summed

    def loss(x, rows, labels, counts, norm, table, total):
        """Add the sum of -log p[label] over the chunk to total, fp32 [1], in place.

        rows, labels, counts: int32 [C]; counts is 1, or 0 for a row that pads the chunk.
        """
        summed = chunk(x, rows, labels, counts, norm, table)[4]
        _add(total, summed)
        return summed

    def loss_backward(x, rows, labels, counts, factor, norm, table, total, dx, *trained):
        """`loss`, and add its gradients times factor to dx [N, H] and to trained (dnorm [H], dtable [V, H]), in place.

        trained is empty with LoRA, which trains neither.
        """
        taken, y, rstd, dlogits, summed = chunk(x, rows, labels, counts, norm, table)
        weights: Any = ops.cast((ops.cast(counts, ms.float32) * factor).reshape(-1, 1), y.dtype)
        dy = all_reduce(linear_dx(dlogits, table) * weights)
        drows, dweight = rms_norm_backward(dy, taken, rstd, norm)
        if len(trained) > 0:
            dnorm, dtable = trained
            add_linear_dweight(dtable, dlogits, y * weights)
            _add(dnorm, dweight)
        add_rows(dx, rows, drows)
        _add(total, summed)
        return summed

    return logits, loss, loss_backward
