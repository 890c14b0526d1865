"""The Ascend column of the kernel table: fused operators. NOT RUN HERE: no NPU was at hand.

A test binds every call below to the operator's signature in the installed MindSpore.
"""

import mindspore as ms
import numpy as np
from mindspore import ops
from mindspore.ops.auto_generate import (
    FlashAttentionScore,
    FlashAttentionScoreGrad,
    RmsNormGrad,
    RotaryPositionEmbedding,
)

from dscoder_exp.model.kernels.cpu import (  # nothing fused to call here
    adapted,
    adapted_dx,
    cached_attention,
    linear,
    linear_dweight,
    linear_dx,
    swiglu,
    swiglu_backward,
)

__all__ = [
    "adapted",
    "adapted_dx",
    "attention",
    "attention_backward",
    "attention_mask",
    "cached_attention",
    "linear",
    "linear_dweight",
    "linear_dx",
    "rms_norm",
    "rms_norm_backward",
    "rotate",
    "swiglu",
    "swiglu_backward",
]

LAYOUT = "TND"  # [B * T, heads, d]; documents by their ends
RIGHT_DOWN = 3  # sparse_mode: a document's last query here sees its last key here, the one before one fewer, …
CAUSAL = ms.Tensor(np.triu(np.ones((2048, 2048), np.uint8), 1))  # the one mask that these modes take; 1: doesn't count
COUNT = 128  # documents are filled up to a multiple of it, so that few shapes are compiled


def rms_norm(x, weight, eps):
    return ops.rms_norm(x, ops.cast(weight, x.dtype), eps)


def rms_norm_backward(dy, x, rstd, weight):
    dx, dweight = RmsNormGrad()(dy, x, rstd, ops.cast(weight, x.dtype))
    return dx, ops.cast(dweight, ms.float32)


def rotate(x, cos, sin):
    return RotaryPositionEmbedding()(x, ops.cast(cos, x.dtype), ops.cast(sin, x.dtype), 0)


def attention_mask(documents, heads, rank=0, ranks=1):
    """int64 [2, D]: where each document of the batch ends, among this rank's queries and among the keys of all, both
    counted through all rows. Padding is one more document, and so are keys after a row's last query here.

    Documents of no length at the end fill the number up, as in MindSpore Transformers (eod_pad_length).
    """
    length = documents.shape[1]
    own, first = length // ranks, rank * (length // ranks)
    changes = np.ones(documents.shape, bool)
    changes[:, :-1] = documents[:, 1:] != documents[:, :-1]
    changes[:, first + own - 1] = True  # so that a document's last query here sees its last key here (RIGHT_DOWN)
    rows, columns = np.nonzero(changes)
    queries = rows * own + np.clip(columns + 1 - first, 0, own)
    ends = np.stack((queries, rows * length + columns + 1))
    return ms.Tensor(np.pad(ends, ((0, 0), (0, -ends.shape[1] % COUNT)), mode="edge"))


def _flat(x):
    return x.reshape(-1, x.shape[2], x.shape[3])


def attention(q, k, v, mask):
    batch, length, heads, size = q.shape
    kernel = FlashAttentionScore(
        head_num=heads, scale_value=size**-0.5, next_tokens=0, input_layout=LAYOUT, sparse_mode=RIGHT_DOWN
    )
    softmax_max, softmax_sum, _, out = kernel(
        _flat(q), _flat(k), _flat(v), None, None, None, CAUSAL, None, mask[0], mask[1]
    )
    return out.reshape(batch * length, heads * size), (softmax_max, softmax_sum)


def attention_backward(dout, out, q, k, v, mask, saved):
    _, _, heads, size = q.shape
    softmax_max, softmax_sum = saved
    kernel = FlashAttentionScoreGrad(
        head_num=heads, scale_value=size**-0.5, next_tokens=0, input_layout=LAYOUT, sparse_mode=RIGHT_DOWN
    )
    out, dout = out.reshape(-1, heads, size), dout.reshape(-1, heads, size)
    q_k_v = _flat(q), _flat(k), _flat(v)
    dq, dk, dv, _ = kernel(
        *q_k_v, dout, None, None, None, CAUSAL, softmax_max, softmax_sum, None, out, None, mask[0], mask[1]
    )
    return dq.reshape(q.shape), dk.reshape(k.shape), dv.reshape(v.shape)
