"""The CPU functions of the kernel table, composed of operators that have a CPU kernel; no fused operator has one."""

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ops

from dscoder_exp.device.memory import put
from dscoder_exp.model.kernels import MASKED

_product: Any = ops.MatMul()
_product_bt: Any = ops.MatMul(transpose_b=True)
_product_at: Any = ops.MatMul(transpose_a=True)
_matmul = ops.BatchMatMul()
_matmul_transposed = ops.BatchMatMul(transpose_b=True)
_transposed_matmul = ops.BatchMatMul(transpose_a=True)
_halves = ops.Split(-1, 2)
_softmax = ops.Softmax(axis=-1)
_gather = ops.Gather()
_add: Any = ops.AssignAdd()
_pick = ops.GatherD()
_scatter_add = ops.ScatterAdd()
_write_rows = ops.ScatterNdUpdate()
_add_elements = ops.TensorScatterElements(axis=1, reduction="add")
_mean: Any = ops.ReduceMean(keep_dims=True)
_sum: Any = ops.ReduceSum(keep_dims=True)

num_masks = 1
TINY = 1e-37  # keeps log finite where a probability underflowed
LEVELS = 2**16  # number of values of dropout's random integers; the rate is rounded to a multiple of 1 / LEVELS


def linear(x, weight):
    """x [N, in], weight [out, in] -> [N, out]."""
    return _product_bt(x, ops.cast(weight, x.dtype))


def linear_dx(dy, weight):
    """dy [N, out], weight [out, in] -> dx [N, in]."""
    return _product(dy, ops.cast(weight, dy.dtype))


def linear_dweight(dy, x):
    """dy [N, out], x [N, in] -> dweight [out, in]."""
    return _product_at(dy, x)


def add_linear_dweight(total, dy, x):
    _add(total, ops.cast(linear_dweight(dy, x), total.dtype))


def lora_linear(x, a_input, weight, a, b, scale):
    """x, a_input [N, in], a [r, in], b [out, r] -> x weight^T + scale a_input a^T b^T [N, out]."""
    return linear(x, weight) + linear(linear(a_input, a), b) * scale


def lora_linear_dx(dy, inner, weight, a):
    """dy [N, out], inner [N, r] -> dy weight + inner a [N, in]."""
    return linear_dx(dy, weight) + linear_dx(inner, a)


def rms_norm(x, weight, eps):
    """Root mean square norm in fp32 (Zhang & Sennrich 2019, arXiv:1910.07467).

    The weight is rounded to x's dtype first, so that fp32 master weights give the same result as weights held in x's
    dtype, and the same as on Ascend.
    """
    wide: Any = widen(x)
    rstd = ops.rsqrt(_mean(wide * wide, -1) + eps)
    return ops.cast(wide * rstd * widen(ops.cast(weight, x.dtype)), x.dtype), rstd


def rms_norm_backward(dy, x, rstd, weight):
    """With n = x * rstd: dx = rstd * (dy * w - n * mean(dy * w * n)); dw = sum(dy * n)."""
    wide: Any = widen(dy)
    normed = widen(x) * rstd
    scaled = wide * widen(ops.cast(weight, x.dtype))
    dx = rstd * (scaled - normed * _mean(scaled * normed, -1))
    return ops.cast(dx, x.dtype), ops.sum(wide * normed, 0)


def add(x, y):
    return x + y


def widen(x):
    return ops.cast(x, ms.float32)


def narrow(x, like):
    return ops.cast(x, like.dtype)


def split_heads(x, cos):
    """x [N, n d] -> [B, T, n, d]."""
    return x.reshape(cos.shape[0], cos.shape[1], -1, cos.shape[3])


def join_heads(x):
    """x [B, T, n, d] -> [N, n d]."""
    return x.reshape(x.shape[0] * x.shape[1], x.shape[2] * x.shape[3])


def rotate(x, cos, sin):
    """Rotary position embedding in the half-split layout of Hugging Face's Llama (RoFormer, arXiv:2104.09864)."""
    first, second = _halves(x)
    return ops.cast(x * cos + ops.concat((-second, first), -1) * sin, x.dtype)


def attention_mask(documents, rank=0, ranks=1):
    """fp32 [B, 1, T, T], added to the scores: 0 where key j <= query i is in the same document, else MASKED.

    Context parallelism isn't supported here, only in the C++ kernels; preflight/ refuses it without them.
    """
    assert ranks == 1
    allowed = documents[:, :, None] == documents[:, None]
    allowed &= np.tri(documents.shape[1], dtype=np.bool_)
    return (put(np.where(allowed, np.float32(0), np.float32(MASKED))[:, None]),)


def _heads_first(x):
    return x.transpose(0, 2, 1, 3)  # [B, n, T, d]


def _grouped(q, kv_heads):
    """[B, h, T, d] -> [B, k, h/k * T, d]: the queries that share a key head become rows of one product."""
    batch, heads, length, size = q.shape
    return q.reshape(batch, kv_heads, heads // kv_heads * length, size)


def attention(q, k, v, mask):
    """Scaled dot-product attention with grouped key/value heads; saves the probabilities [B, h, T, T]."""
    batch, length, heads, size = q.shape
    kv_heads = k.shape[2]
    queries = _grouped(_heads_first(q) * (size**-0.5), kv_heads)
    scores = _matmul_transposed(queries, _heads_first(k)).reshape(batch, heads, length, length) + mask[0]
    probabilities = ops.cast(_softmax(scores), q.dtype)
    out = _matmul(_grouped(probabilities, kv_heads), _heads_first(v)).reshape(batch, heads, length, size)
    return _heads_first(out).reshape(batch * length, heads * size), (probabilities,)


def attention_backward(dout, out, q, k, v, mask, saved):
    """The softmax's backward is ds = p * (dp - sum(p * dp)); the rest are the transposes of the two products.

    That sum over keys equals sum(dout * out) over head_dim (FlashAttention, arXiv:2205.14135). The product for dp also
    subtracts the sum, as one more column: [dout, -sum] [v, 1]^T.
    """
    batch, length, heads, size = q.shape
    kv_heads = k.shape[2]
    dout = dout.reshape(q.shape)
    delta = _sum(dout * out.reshape(q.shape), -1)
    dout_and_delta = _grouped(_heads_first(ops.concat((dout, -delta), -1)), kv_heads)
    values = ops.concat((v, ops.ones((batch, length, kv_heads, 1), v.dtype)), -1)
    queries = _grouped(_heads_first(q) * (size**-0.5), kv_heads)
    probabilities = _grouped(saved[0], kv_heads)
    dv = _transposed_matmul(probabilities, _grouped(_heads_first(dout), kv_heads))
    ds = probabilities * _matmul_transposed(dout_and_delta, _heads_first(values))
    dq = _matmul(ds, _heads_first(k) * (size**-0.5)).reshape(batch, heads, length, size)
    dk = _transposed_matmul(ds, queries)
    return _heads_first(dq), _heads_first(dk), _heads_first(dv)


def _swapped(x):
    """[a, b, d] -> [b, a, d]; a reshape where a or b is 1, as T is while decoding."""
    first, second, size = x.shape
    return x.reshape(second, first, size) if first == 1 or second == 1 else x.transpose(1, 0, 2)


def cached_attention(q, k, v, k_cache, v_cache, indices, mask):
    """`attention` over the caches, after k and v are written into them in place; Ascend has ascend_decoding.py.

    q [1, T, h, d], k, v [1, T, k, d], fp32 k_cache, v_cache [k, S, d], mask [T, S], added to the scores -> [T, h d]. k
    and v are written at indices [k T, 2] (key head, position). Computed in fp32; what native/cached_attention.h rounds
    to q's dtype is rounded here, too.
    """
    length, heads, size, dtype = q.shape[1], q.shape[2], q.shape[3], q.dtype
    kv_heads, keys = k_cache.shape[0], k_cache.shape[1]
    new_rows, group = (length, kv_heads, size), heads // kv_heads * length
    wide_k: Any = widen(k)
    wide_v: Any = widen(v)
    all_k = _write_rows(k_cache, indices, _swapped(wide_k.reshape(new_rows)).reshape(-1, size))
    all_v = _write_rows(v_cache, indices, _swapped(wide_v.reshape(new_rows)).reshape(-1, size))
    scaled: Any = _rounded(widen(q) * (size**-0.5), dtype)
    rows = _swapped(scaled.reshape(length, heads, size)).reshape(kv_heads, group, size)
    scores = _rounded(_matmul_transposed(rows, all_k), dtype).reshape(heads, length, keys) + mask
    probabilities = _rounded(_softmax(scores), dtype)
    out = _matmul(probabilities.reshape(kv_heads, group, keys), all_v)
    return ops.cast(_swapped(out.reshape(heads, length, size)).reshape(length, heads * size), dtype)


def _rounded(x, dtype) -> Any:
    """fp32 x rounded to a dtype, in fp32."""
    return ops.cast(ops.cast(x, dtype), ms.float32)


def dropout_mask(rows, width, columns, rate, key):
    """fp32 [rows, columns] of 0 or 1 / (1 - rate). Ranks that split the columns get their parts of one rank's mask."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    drawn = generator.integers(0, LEVELS, (rows, width), np.uint16)[:, columns]
    return put((drawn >= round(rate * LEVELS)) * np.float32(1 / (1 - rate)))


def dropout(x, mask, rate):
    return x * ops.cast(mask, x.dtype)


def take_rows(table, ids):
    return _gather(table, ids, 0)


def add_rows(table, ids, x):
    _scatter_add(table, ids, x)


def add_at(x, columns, values):
    return _add_elements(x, columns.reshape(-1, 1), values.reshape(-1, 1))


def softmax_gradient_by(add_at):
    """softmax_gradient, where `add_at` is the table's."""

    def softmax_gradient(scores, labels):
        p = _softmax(widen(scores))
        picked = _pick(p, 1, labels.reshape(-1, 1)).reshape(-1)
        dscores = add_at(p, labels, -ops.ones(labels.shape, p.dtype))
        return narrow(dscores, scores), ops.log(ops.maximum(picked, TINY))

    return softmax_gradient


softmax_gradient = softmax_gradient_by(add_at)


def swiglu(gate, up):
    return ops.silu(gate) * up


def swiglu_backward(dy, gate, up):
    sigmoid = ops.sigmoid(gate)
    silu = gate * sigmoid
    return dy * up * (sigmoid + silu - silu * sigmoid), dy * silu, silu * up
