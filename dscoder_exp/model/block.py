"""A Llama block on one page: its forward, its backward, and its step over a key/value cache.

Plain functions over arrays (legend in kernels/__init__.py); units.py compiles each once, and it is called once a layer.
Weights come in the order of weights/names.py, each [out, in] as Hugging Face stores it.
Sources: LLaMA (arXiv:2302.13971), grouped-query attention (arXiv:2305.13245).
"""

from dscoder_exp.model.kernels import Kernels
from dscoder_exp.model.linear import linear, linear_dweight, linear_dx
from dscoder_exp.schema.llama import LlamaConfig

WEIGHTS = 9  # of a block


def make_block(config: LlamaConfig, kernels: Kernels):
    """forward, backward, recomputing_backward and cached_run of a block of this shape, on this table of kernels.

    They are closures over numbers and functions, and take and return flat lists of arrays: what MindSpore's graph
    parser can read, and what it doesn't compile anew at each call (a tuple of arrays counts as a constant).
    """
    heads, key_heads, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    eps = config.rms_norm_eps
    rms_norm, rms_norm_backward, rotate = kernels.rms_norm, kernels.rms_norm_backward, kernels.rotate
    attention, attention_backward = kernels.attention, kernels.attention_backward
    swiglu, swiglu_backward = kernels.swiglu, kernels.swiglu_backward
    cached_attention = kernels.cached_attention

    def project(x, cos, sin, weights):
        """x [N, H] -> normed [N, H], rstd, q [B, T, h, d] and k [B, T, k, d] rotated, v [B, T, k, d]."""
        batch, length = cos.shape[0], cos.shape[1]
        normed, rstd = rms_norm(x, weights[0], eps)
        q = linear(normed, weights[1]).reshape(batch, length, heads, size)
        k = linear(normed, weights[2]).reshape(batch, length, key_heads, size)
        v = linear(normed, weights[3]).reshape(batch, length, key_heads, size)
        return normed, rstd, rotate(q, cos, sin), rotate(k, cos, sin), v

    def finish(x, attended, weights):
        """Output projection and MLP: -> y [N, H], and what the backward needs of them."""
        middle = x + linear(attended, weights[4])
        normed, rstd = rms_norm(middle, weights[5], eps)
        gate, up = linear(normed, weights[6]), linear(normed, weights[7])
        y = middle + linear(swiglu(gate, up), weights[8])
        return y, middle, normed, rstd, gate, up

    def forward(x, cos, sin, mask, *weights):
        """x [N, H] -> y [N, H], followed by what `backward` takes as saved."""
        normed, rstd, q, k, v = project(x, cos, sin, weights)
        attended, kept = attention(q, k, v, mask)
        y, middle, normed2, rstd2, gate, up = finish(x, attended, weights)
        return (y, normed, rstd, q, k, v, attended, middle, normed2, rstd2, gate, up, *kept)

    def backward(dy, x, cos, sin, mask, *weights_and_saved):
        """dy [N, H] -> dx [N, H], followed by the weights' gradients in the weights' order."""
        weights = weights_and_saved[:WEIGHTS]
        normed, rstd, q, k, v, attended, middle, normed2, rstd2, gate, up = weights_and_saved[WEIGHTS : WEIGHTS + 11]
        kept = weights_and_saved[WEIGHTS + 11 :]
        dgate, dup, activation = swiglu_backward(linear_dx(dy, weights[8]), gate, up)
        ddown = linear_dweight(dy, activation, weights[8])
        dgate_proj = linear_dweight(dgate, normed2, weights[6])
        dup_proj = linear_dweight(dup, normed2, weights[7])
        dnormed2 = linear_dx(dgate, weights[6]) + linear_dx(dup, weights[7])
        dmiddle, dnorm2 = rms_norm_backward(dnormed2, middle, rstd2, weights[5])
        dmiddle = dmiddle + dy
        do_proj = linear_dweight(dmiddle, attended, weights[4])
        dq, dk, dv = attention_backward(linear_dx(dmiddle, weights[4]), attended, q, k, v, mask, kept)
        rows = x.shape[0]
        dq = rotate(dq, cos, -sin).reshape(rows, heads * size)
        dk = rotate(dk, cos, -sin).reshape(rows, key_heads * size)
        dv = dv.reshape(rows, key_heads * size)
        dq_proj = linear_dweight(dq, normed, weights[1])
        dk_proj = linear_dweight(dk, normed, weights[2])
        dv_proj = linear_dweight(dv, normed, weights[3])
        dnormed = linear_dx(dq, weights[1]) + linear_dx(dk, weights[2]) + linear_dx(dv, weights[3])
        dx, dnorm = rms_norm_backward(dnormed, x, rstd, weights[0])
        return dx + dmiddle, dnorm, dq_proj, dk_proj, dv_proj, do_proj, dnorm2, dgate_proj, dup_proj, ddown

    def recomputing_backward(dy, x, cos, sin, mask, *weights):
        """`backward` that saved nothing but the block's input."""
        saved = forward(x, cos, sin, mask, *weights)[1:]
        return backward(dy, x, cos, sin, mask, *weights, *saved)

    def cached_forward(x, cos, sin, mask, places, k_cache, v_cache, *weights):
        """x [T, H] of one sequence -> y [T, H]; its keys and values are written into the caches [k, S, d] first.

        mask [T, S] is 0 where position t may look and very negative elsewhere; places [k * T, 2] holds (key head,
        position) of each row that is written.
        """
        _, _, q, k, v = project(x, cos, sin, weights)
        return finish(x, cached_attention(q, k, v, k_cache, v_cache, places, mask), weights)[0]

    def cached_run(x, cos, sin, mask, places, *caches_and_weights):
        """`cached_forward` through as many blocks as there are runs of (k_cache, v_cache, weights)."""
        size = WEIGHTS + 2
        for first in range(0, len(caches_and_weights), size):
            x = cached_forward(x, cos, sin, mask, places, *caches_and_weights[first : first + size])
        return x

    return forward, backward, recomputing_backward, cached_run
