"""What differs by device, in one table: each name is a plain function, the same in cpu.py and ascend.py.

Legend: B batch, T positions, N = B * T, H hidden_size, h heads, k key/value heads, d head_dim, F intermediate_size.
A backward function stands beside each forward one, because a block's backward is a compiled function of its own and
decides itself what was kept from the forward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dscoder_exp.native.library import library

Function = Callable[..., Any]
MASKED = -1e9  # added to a score that must not count; far below any score, and finite, so that no row is NaN


@dataclass(frozen=True)
class Kernels:
    """The functions a transformer block is made of."""

    linear: Function  # (x [N, in], weight [out, in]) -> [N, out], in the activations' dtype
    linear_dx: Function  # (dy [N, out], weight) -> dx [N, in]
    linear_dweight: Function  # (dy [N, out], x [N, in]) -> dweight [out, in], in their dtype
    # LoRA's factors a [r, in] and b [out, r] beside a weight; seen: x, or what dropout left of it.
    adapted: Function  # (x, seen [N, in], weight, a, b, scale) -> x weight^T + scale seen a^T b^T [N, out]
    adapted_dx: Function  # (dy [N, out], inner [N, r], weight, a) -> dy weight + inner a [N, in]
    rms_norm: Function  # (x [N, H], weight [H], eps) -> y [N, H], rstd [N, 1]
    rms_norm_backward: Function  # (dy, x, rstd, weight) -> dx [N, H], dweight [H], fp32
    rotate: Function  # (x [B, T, n, d], cos, sin [B, T, 1, d]) -> [B, T, n, d]; its inverse takes -sin
    # (documents int32 [B, T], on the host, context rank, context ranks) -> what `attention` takes as mask, a tuple
    attention_mask: Function
    masks: int  # of how many arrays
    # (q [B, T, h, d], k, v [B, T, k, d], mask) -> out [N, h * d], saved (a tuple); q has this context rank's positions
    attention: Function
    attention_backward: Function  # (dout [N, h * d], out, q, k, v, mask, saved) -> dq, dk, dv
    # (q [1, T, h, d], k, v [1, T, k, d], k_cache, v_cache [k, S, d], places [k * T, 2], mask [T, S]) -> [T, h * d];
    # k and v are written at places (key head, position) first; mask is added to the scores.
    cached_attention: Function
    # (rows, width of the whole array, this rank's columns of it, rate, key: numbers that it follows from alone) -> what
    # `drop` takes as mask
    dropout_mask: Function
    drop: Function  # (x [N, n], mask, rate) -> x, of which about `rate` is 0 and the rest divided by 1 - rate
    take_rows: Function  # (table [V, H], ids [C]) -> its rows [C, H]
    add_rows: Function  # (table [V, H], ids [C], x [C, H]): adds x to its rows, in place
    add_at: Function  # (x [C, V], columns [C], values [C]) -> x with a value added in one column of each row
    swiglu: Function  # (gate, up [N, F]) -> silu(gate) * up
    swiglu_backward: Function  # (dy, gate, up) -> dgate, dup, silu(gate) * up


def kernels_for(device: str, precision: str = "fp32") -> Kernels:
    """The table of "cpu" or "ascend"; only what it takes is imported.

    Args:
        precision: that the activations are in; the C++ kernels are for fp32.
    """
    if device == "ascend":
        from dscoder_exp.model.kernels import ascend as module
    else:
        from dscoder_exp.model.kernels import cpu as module
    functions = {name: getattr(module, name) for name in Kernels.__dataclass_fields__}
    compiled = library()
    if device == "cpu" and precision == "fp32" and compiled.path is not None:
        from dscoder_exp.model.kernels.native import native_functions

        functions |= native_functions(compiled.path, products=compiled.products)
    return Kernels(**functions)
