"""The Ascend column of the kernel table: fused operators. NOT RUN HERE: no NPU was at hand.

A test binds every call below to the operator's signature in the installed MindSpore.
"""

from typing import Any

import mindspore as ms
from mindspore import ops
from mindspore.ops.auto_generate import (
    FlashAttentionScore,
    FlashAttentionScoreGrad,
    RmsNormGrad,
    RotaryPositionEmbedding,
)

from dscoder_exp.model.kernels.cpu import cached_attention, swiglu, swiglu_backward  # nothing fused to call here

__all__ = [
    "attention",
    "attention_backward",
    "attention_mask",
    "cached_attention",
    "rms_norm",
    "rms_norm_backward",
    "rotate",
    "swiglu",
    "swiglu_backward",
]

LAYOUT = "BSND"  # [B, T, heads, d]


def rms_norm(x, weight, eps):
    return ops.rms_norm(x, ops.cast(weight, x.dtype), eps)


def rms_norm_backward(dy, x, rstd, weight):
    dx, dweight = RmsNormGrad()(dy, x, rstd, ops.cast(weight, x.dtype))
    return dx, ops.cast(dweight, weight.dtype)


def rotate(x, cos, sin):
    return RotaryPositionEmbedding()(x, ops.cast(cos, x.dtype), ops.cast(sin, x.dtype), 0)


def attention_mask(documents):
    """uint8 [B, 1, T, T], 1 where a score must not count (FlashAttentionScore's convention)."""
    length = documents.shape[1]
    positions: Any = ops.arange(length)
    later = positions.reshape(1, length, 1) < positions.reshape(1, 1, length)
    other = documents.expand_dims(2) != documents.expand_dims(1)
    mask: Any = ops.cast(ops.logical_or(other, later), ms.uint8)
    return mask.expand_dims(1)


def attention(q, k, v, mask):
    batch, length, heads, size = q.shape
    kernel = FlashAttentionScore(head_num=heads, scale_value=size**-0.5, input_layout=LAYOUT)
    softmax_max, softmax_sum, _, out = kernel(q, k, v, None, None, None, mask)
    return out.reshape(batch * length, heads * size), (softmax_max, softmax_sum)


def attention_backward(dout, out, q, k, v, mask, saved):
    _, _, heads, size = q.shape
    softmax_max, softmax_sum = saved
    kernel = FlashAttentionScoreGrad(head_num=heads, scale_value=size**-0.5, input_layout=LAYOUT)
    dq, dk, dv, _ = kernel(
        q, k, v, dout.reshape(q.shape), None, None, None, mask, softmax_max, softmax_sum, None, out.reshape(q.shape)
    )  # fmt: skip
    return dq, dk, dv
