"""Fused operators of decoding on Ascend. Compiled for a card (tests/ascend), never run on one.

A block's cache is one array [rows, k d]: rows of keys, and as many of values, with S positions for each slot. `keys`
and `values` are views of it, [slots, S, k d], or [1, S, k d] of one slot (generation/slot_cache.py).

Pages (aclnnIncreFlashAttentionV4 with a block_table) aren't used: they need each sequence's length on the host, which
MindSpore 2.10 copies to the device at each call, and back in each block, waiting each time.
"""

from mindspore import ops
from mindspore.ops.auto_generate import (
    AddRmsNorm,
    ArgMaxExt,
    IncreFlashAttention,
    InplaceIndexCopy,
    PromptFlashAttention,
    RotaryPositionEmbedding,
    SplitWithSize,
    Swiglu,
)

from dscoder_exp.model.kernels.ascend import CAUSAL, RIGHT_DOWN_CAUSAL

LAYOUT = "BSH"  # [B, S, heads d]
HIGH_PRECISION = 0  # inner_precise: of fp16; bf16 has only this
UNPAGED = 0  # block_size


def add_rms_norm(x, delta, weight, eps):
    """x, delta [N, H] -> the norm of their sum, and the sum."""
    y, _, total = AddRmsNorm()(x, delta, ops.cast(weight, x.dtype), eps)
    return y, total


def rotate_heads(x, cos, sin):
    """Rotary embedding of x [N, 1, n, d], with cos and sin in x's shape and dtype; computed in fp32, rounded once."""
    return RotaryPositionEmbedding()(x, cos, sin, 0)


def split_columns(x, widths):
    """x [N, sum of widths] -> an array for each of the widths."""
    return SplitWithSize()(x, widths, -1)


def write_rows(cache, rows, values):
    """Write values [M, n] to the rows [M] of the cache, in place; returns what attention has to depend on."""
    return InplaceIndexCopy()(cache, 0, rows, values)


def attend_step(q, keys, values, mask, kv_heads, size):
    """Attention of one query for each slot: q [slots, h d] -> [slots, h d].

    Args:
        mask: (bool [slots, 1, S],), True where a query doesn't attend.
    """
    heads = q.shape[1] // size
    kernel = IncreFlashAttention(heads, LAYOUT, size**-0.5, kv_heads, UNPAGED, HIGH_PRECISION)
    return kernel(q.reshape(-1, 1, heads * size), [keys], [values], mask[0]).reshape(q.shape)


def attend_chunk(q, keys, values, lengths, kv_heads, size):
    """Attention of T queries at the end of one sequence, each to its own and earlier positions: q [T, h d] -> [T, h d].

    Args:
        lengths: (int64 [1], int64 [1]) on the host: number of queries, and of keys. Further queries are padding.
    """
    heads = q.shape[1] // size
    kernel = PromptFlashAttention(
        num_heads=heads,
        scale_value=size**-0.5,
        input_layout=LAYOUT,
        num_key_value_heads=kv_heads,
        sparse_mode=RIGHT_DOWN_CAUSAL,
        inner_precise=HIGH_PRECISION,
    )
    return kernel(q.reshape(1, -1, heads * size), keys, values, CAUSAL, lengths[0], lengths[1]).reshape(q.shape)


def swiglu_merged(gate_up):
    """[N, 2 F] -> silu(gate) * up [N, F]."""
    return Swiglu()(gate_up, -1)


def most_likely(logits):
    """Logits [N, V] -> int64 [N], the first of the largest."""
    return ArgMaxExt()(logits, -1)
