"""The CPU column of the kernel table: composites of operators that have a CPU kernel (no fused ones do)."""

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
_scatter_add = ops.ScatterAdd()
_write_rows = ops.ScatterNdUpdate()
_add_elements = ops.TensorScatterElements(axis=1, reduction="add")
_mean: Any = ops.ReduceMean(keep_dims=True)
_sum: Any = ops.ReduceSum(keep_dims=True)

masks = 1
LEVELS = 2**16  # of dropout's random numbers; the rate is exact to half of one


def linear(x, weight):
    """x [N, in], weight [out, in] -> [N, out]."""
    return _product_bt(x, ops.cast(weight, x.dtype))


def linear_dx(dy, weight):
    """dy [N, out], weight [out, in] -> dx [N, in]."""
    return _product(dy, ops.cast(weight, dy.dtype))


def linear_dweight(dy, x):
    """dy [N, out], x [N, in] -> dweight [out, in]."""
    return _product_at(dy, x)


def adapted(x, seen, weight, a, b, scale):
    """x [N, in] and what its factors see of it, a [r, in], b [out, r] -> x weight^T + scale seen a^T b^T."""
    return linear(x, weight) + linear(linear(seen, a), b) * scale


def adapted_dx(dy, inner, weight, a):
    """dy [N, out], inner [N, r] -> dy weight + inner a [N, in]."""
    return linear_dx(dy, weight) + linear_dx(inner, a)


def _wide(x) -> Any:
    return ops.cast(x, ms.float32)


def rms_norm(x, weight, eps):
    """Root mean square norm in fp32 (Zhang & Sennrich 2019, arXiv:1910.07467).

    The weight is rounded to x's dtype first: who holds it in fp32 computes as who does not, and as on Ascend.
    """
    wide = _wide(x)
    rstd = ops.rsqrt(_mean(wide * wide, -1) + eps)
    return ops.cast(wide * rstd * _wide(ops.cast(weight, x.dtype)), x.dtype), rstd


def rms_norm_backward(dy, x, rstd, weight):
    """With n = x * rstd: dx = rstd * (dy * w - n * mean(dy * w * n)); dw = sum(dy * n)."""
    wide = _wide(dy)
    normed = _wide(x) * rstd
    scaled = wide * _wide(ops.cast(weight, x.dtype))
    dx = rstd * (scaled - normed * _mean(scaled * normed, -1))
    return ops.cast(dx, x.dtype), ops.sum(wide * normed, 0)


def rotate(x, cos, sin):
    """Rotary position embedding in the half-split layout of Hugging Face's Llama (RoFormer, arXiv:2104.09864)."""
    first, second = _halves(x)
    return ops.cast(x * cos + ops.concat((-second, first), -1) * sin, x.dtype)


def attention_mask(documents, rank=0, ranks=1):
    """fp32 [B, 1, T, T], added to the scores: 0 where key j <= query i lies in the same document, else MASKED.

    It has no rows of other context ranks, which are left to the C++ kernels; preflight/ sees to it.
    """
    assert ranks == 1
    seen = documents[:, :, None] == documents[:, None]
    seen &= np.tri(documents.shape[1], dtype=np.bool_)
    return (put(np.where(seen, np.float32(0), np.float32(MASKED))[:, None]),)


def _heads_first(x):
    return x.transpose(0, 2, 1, 3)  # [B, n, T, d]


def _grouped(q, key_heads):
    """[B, h, T, d] -> [B, k, h/k * T, d]: the queries that share a key head become rows of one product."""
    batch, heads, length, size = q.shape
    return q.reshape(batch, key_heads, heads // key_heads * length, size)


def attention(q, k, v, mask):
    """Scaled dot-product attention with grouped key/value heads; keeps the probabilities [B, h, T, T]."""
    batch, length, heads, size = q.shape
    key_heads = k.shape[2]
    queries = _grouped(_heads_first(q) * (size**-0.5), key_heads)
    scores = _matmul_transposed(queries, _heads_first(k)).reshape(batch, heads, length, length) + mask[0]
    probabilities = ops.cast(_softmax(scores), q.dtype)
    out = _matmul(_grouped(probabilities, key_heads), _heads_first(v)).reshape(batch, heads, length, size)
    return _heads_first(out).reshape(batch * length, heads * size), (probabilities,)


def attention_backward(dout, out, q, k, v, mask, saved):
    """ds = p * (dp - sum(p * dp)) is the softmax's own backward; the rest are the transposes of the two products.

    The sum over keys equals sum(dout * out) over the head's few dimensions (FlashAttention, arXiv:2205.14135). The
    product that gives dp takes it off on the way, as one more column: [dout, -sum] [v, 1]^T.
    """
    batch, length, heads, size = q.shape
    key_heads = k.shape[2]
    dout = dout.reshape(q.shape)
    delta = _sum(dout * out.reshape(q.shape), -1)
    lessened = _grouped(_heads_first(ops.concat((dout, -delta), -1)), key_heads)
    values = ops.concat((v, ops.ones((batch, length, key_heads, 1), v.dtype)), -1)
    queries = _grouped(_heads_first(q) * (size**-0.5), key_heads)
    probabilities = _grouped(saved[0], key_heads)
    dv = _transposed_matmul(probabilities, _grouped(_heads_first(dout), key_heads))
    ds = probabilities * _matmul_transposed(lessened, _heads_first(values))
    dq = _matmul(ds, _heads_first(k) * (size**-0.5)).reshape(batch, heads, length, size)
    dk = _transposed_matmul(ds, queries)
    return _heads_first(dq), _heads_first(dk), _heads_first(dv)


def _swapped(x):
    """[a, b, d] -> [b, a, d]. While decoding one of them is 1, and nothing has to be moved."""
    first, second, size = x.shape
    return x.reshape(second, first, size) if first == 1 or second == 1 else x.transpose(1, 0, 2)


def cached_attention(q, k, v, k_cache, v_cache, places, mask):
    """The product of `attention`, over a cache whose heads come first; its new rows are written in place."""
    length, heads, size = q.shape[1], q.shape[2], q.shape[3]
    key_heads, keys = k_cache.shape[0], k_cache.shape[1]
    new_rows, group = (length, key_heads, size), heads // key_heads * length
    all_k = _write_rows(k_cache, places, _swapped(k.reshape(new_rows)).reshape(-1, size))
    all_v = _write_rows(v_cache, places, _swapped(v.reshape(new_rows)).reshape(-1, size))
    rows = (_swapped(q.reshape(length, heads, size)) * (size**-0.5)).reshape(key_heads, group, size)
    scores = _matmul_transposed(rows, all_k).reshape(heads, length, keys) + mask
    probabilities: Any = ops.cast(_softmax(scores), q.dtype)
    out = _matmul(probabilities.reshape(key_heads, group, keys), all_v)
    return _swapped(out.reshape(heads, length, size)).reshape(length, heads * size)


def dropout_mask(rows, width, columns, rate, key):
    """0, or 1 / (1 - rate): fp32 [rows, columns]. Ranks that share the columns drop what one rank would."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    drawn = generator.integers(0, LEVELS, (rows, width), np.uint16)[:, columns]
    return put((drawn >= round(rate * LEVELS)) * np.float32(1 / (1 - rate)))


def drop(x, mask, rate):
    return x * ops.cast(mask, x.dtype)


def take_rows(table, ids):
    return _gather(table, ids, 0)


def add_rows(table, ids, x):
    _scatter_add(table, ids, x)


def add_at(x, columns, values):
    return _add_elements(x, columns.reshape(-1, 1), values.reshape(-1, 1))


def swiglu(gate, up):
    return ops.silu(gate) * up


def swiglu_backward(dy, gate, up):
    sigmoid = ops.sigmoid(gate)
    silu = gate * sigmoid
    return dy * up * (sigmoid + silu - silu * sigmoid), dy * silu, silu * up
