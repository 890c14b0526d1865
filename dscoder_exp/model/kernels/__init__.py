"""The table of functions that differ by device: cpu.py and ascend.py define the same names with the same signatures.

Dimensions: B batch, T positions, N = B * T, H hidden_size, h heads, k key/value heads, d head_dim, F intermediate_size,
V vocab_size, S positions of a key/value cache, C rows of a chunk.
Backward functions are listed too, because a block's backward is written by hand: it is a compiled function of its own
and chooses which arrays to save from the forward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dscoder_exp.native.library import library

Function = Callable[..., Any]
MASKED = -1e9  # added to the score of a masked key: far below any score, but finite, so that no row becomes NaN


@dataclass(frozen=True)
class Kernels:
    """The functions a transformer block is made of."""

    linear: Function  # (x [N, in], weight [out, in]) -> [N, out], in the activations' dtype
    linear_dx: Function  # (dy [N, out], weight) -> dx [N, in]
    linear_dweight: Function  # (dy [N, out], x [N, in]) -> dweight [out, in], rounded to their dtype; fp32 from C++
    add_linear_dweight: Function  # (total fp32 [out, in], dy, x): adds linear_dweight(dy, x) to total, in place
    # A weight with LoRA's factors a [r, in] and b [out, r]; a_input is x, or x after dropout.
    lora_linear: Function  # (x, a_input [N, in], weight, a, b, scale) -> x weight^T + scale a_input a^T b^T [N, out]
    lora_linear_dx: Function  # (dy [N, out], inner [N, r], weight, a) -> dy weight + inner a [N, in]
    rms_norm: Function  # (x [N, H], weight [H], eps) -> y [N, H], rstd [N, 1]
    rms_norm_backward: Function  # (dy, x, rstd, weight) -> dx [N, H], dweight [H], fp32
    add: Function  # (x, y [N, H]) -> their sum
    widen: Function  # (x [N, n]) -> x in fp32
    narrow: Function  # (x fp32 [N, n], like) -> x rounded to the dtype of the array `like`
    split_heads: Function  # (x [N, n d], cos [B, T, 1, d]) -> [B, T, n, d]
    join_heads: Function  # (x [B, T, n, d]) -> [N, n d]
    rotate: Function  # (x [B, T, n, d], cos, sin [B, T, 1, d]) -> [B, T, n, d]; the inverse with -sin
    # (documents int32 [B, T] on the host, context rank, number of context ranks) -> the mask that `attention` takes, a
    # tuple of num_masks arrays
    attention_mask: Function
    num_masks: int
    # (q [B, T, h, d], k, v [B, T, k, d], mask) -> out [N, h * d], saved (a tuple). With context parallelism q has this
    # rank's positions, k and v have all positions.
    attention: Function
    attention_backward: Function  # (dout [N, h * d], out, q, k, v, mask, saved) -> dq, dk, dv
    # (rows, width of the whole array, slice of its columns on this rank, rate, key) -> the mask that `dropout` takes;
    # key: a tuple of integers that seeds the mask
    dropout_mask: Function
    dropout: Function  # (x [N, n], mask, rate) -> x with about `rate` of it set to 0 and the rest divided by 1 - rate
    take_rows: Function  # (table [V, H], ids [C]) -> its rows [C, H]
    add_rows: Function  # (table [V, H], ids [C], x [C, H]): adds x to these rows, in place
    add_at: Function  # (x [C, V], columns [C], values [C]) -> x with values[i] added to x[i, columns[i]]
    # (scores [C, V], labels [C]) -> softmax(scores) less 1 at the label, in fp32 until it is rounded to the scores'
    # dtype, and log softmax(scores)[label], fp32 [C]
    softmax_gradient: Function
    swiglu: Function  # (gate, up [N, F]) -> silu(gate) * up
    swiglu_backward: Function  # (dy, gate, up) -> dgate, dup, silu(gate) * up


def kernels_for(device: str, precision: str = "fp32") -> Kernels:
    """The table for "cpu" or "ascend"; imports only that device's module.

    Args:
        precision: of the activations. On the CPU C++ kernels replace MindSpore's operators where they could be
            compiled; in bf16 nothing else can compute.
    """
    if device == "ascend":
        from dscoder_exp.model.kernels import ascend as module
    else:
        from dscoder_exp.model.kernels import cpu as module
    functions = {name: getattr(module, name) for name in Kernels.__dataclass_fields__}
    compiled = library()
    if device == "cpu" and compiled.path is not None:
        from dscoder_exp.model.kernels.native import native_functions

        functions |= native_functions(compiled.path, precision, products=compiled.products)
    return Kernels(**functions)
