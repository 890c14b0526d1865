"""A matrix product with a weight, plain or with LoRA's factors beside it; computed in the activations' dtype."""

from typing import Any

from mindspore import ops

_product: Any = ops.MatMul()
_product_bt: Any = ops.MatMul(transpose_b=True)
_product_at: Any = ops.MatMul(transpose_a=True)


def linear(x, weight):
    """x [N, in], weight [out, in] -> [N, out]."""
    return _product_bt(x, ops.cast(weight, x.dtype))


def linear_dx(dy, weight):
    """dy [N, out], weight [out, in] -> dx [N, in]."""
    return _product(dy, ops.cast(weight, dy.dtype))


def linear_dweight(dy, x, weight):
    """dy [N, out], x [N, in] -> dweight [out, in] in the weight's dtype."""
    return ops.cast(_product_at(dy, x), weight.dtype)


def adapted(x, seen, weight, a, b, scale):
    """x [N, in] and what its factors see of it, a [r, in], b [out, r] -> x weight^T + scale seen a^T b^T."""
    return linear(x, weight) + linear(linear(seen, a), b) * scale


def adapted_dx(dy, inner, weight, a):
    """dy [N, out], inner [N, r] -> dy weight + inner a [N, in]."""
    return linear_dx(dy, weight) + linear_dx(inner, a)
