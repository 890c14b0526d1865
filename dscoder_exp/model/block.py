"""A Llama block on one page: its forward, its backward, and its step over a key/value cache.

Plain functions over arrays (legend in kernels/__init__.py); compiled.py compiles each once, to be called once a layer.
A block's tensors are its weights in the order of weights/names.py, each [out, in] as Hugging Face stores it, and what
LoRA adds to them (projections.py).
Sources: LLaMA (arXiv:2302.13971), grouped-query attention (arXiv:2305.13245).
"""

from dscoder_exp.model.kernels import Kernels
from dscoder_exp.model.projections import DOWN, GATE, UP, K, O, Q, V, make_projections, tensors_of
from dscoder_exp.model.tensor_parallel import Sharing
from dscoder_exp.schema.llama import LlamaConfig, Lora

# How many of the arrays that `forward` saves, its first ones, each way's backward takes; None: all.
SAVED = {"none": None, "selective": 7, "full": 0}


def make_block(
    config: LlamaConfig, kernels: Kernels, sharing: Sharing, lora: Lora | None = None, *, drops: bool = False
):
    """forward and its backward for each way to recompute, and cached_run of a block of this shape, on these kernels.

    They are closures over numbers and functions, and take and return flat lists of arrays: what MindSpore's graph
    parser can read, and what it doesn't compile anew at each call (a tuple of arrays counts as a constant).

    Args:
        config: of this rank's part of the block. With N rows, x and what is added to it has N of them or, where
            `sharing` shares them out, N / t.
        lora: the factors that are trained instead of the weights; None: the weights are.
        drops: whether the factors' inputs are dropped, as in training with lora.dropout.
    """
    heads, key_heads, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    eps = config.rms_norm_eps
    rms_norm, rms_norm_backward, rotate = kernels.rms_norm, kernels.rms_norm_backward, kernels.rotate
    attention, attention_backward = kernels.attention, kernels.attention_backward
    swiglu, swiglu_backward = kernels.swiglu, kernels.swiglu_backward
    cached_attention = kernels.cached_attention
    enter, leave = sharing.enter, sharing.leave
    gather_keys, scatter_keys = sharing.gather_keys, sharing.scatter_keys
    apply, apply_dx, apply_gradients = make_projections(kernels, lora, drops=drops)
    products = SAVED["selective"]
    masks, count, trains_weights = kernels.masks, tensors_of(lora, drops=drops), lora is None

    def project(x, cos, sin, tensors):
        """x [N, H] -> normed [N, H], rstd, q [B, T, h, d] and k [B, T, k, d] rotated, v [B, T, k, d]."""
        batch, length = cos.shape[0], cos.shape[1]
        normed, rstd = rms_norm(x, tensors[0], eps)
        seen = enter(normed)
        q = apply(seen, tensors, Q).reshape(batch, length, heads, size)
        k = apply(seen, tensors, K).reshape(batch, length, key_heads, size)
        v = apply(seen, tensors, V).reshape(batch, length, key_heads, size)
        return normed, rstd, rotate(q, cos, sin), rotate(k, cos, sin), v

    def finish(x, attended, tensors):
        """Output projection and MLP: -> y [N, H], and what the backward needs of them."""
        middle = x + leave(apply(attended, tensors, O))
        normed, rstd = rms_norm(middle, tensors[5], eps)
        seen = enter(normed)
        gate, up = apply(seen, tensors, GATE), apply(seen, tensors, UP)
        y = middle + leave(apply(swiglu(gate, up), tensors, DOWN))
        return y, middle, normed, rstd, gate, up

    def forward(x, cos, sin, *mask_and_tensors):
        """x [N, H] -> y [N, H], followed by what `backward` takes as saved."""
        mask, tensors = mask_and_tensors[:masks], mask_and_tensors[masks:]
        normed, rstd, q, k, v = project(x, cos, sin, tensors)
        attended, kept = attention(q, gather_keys(k), gather_keys(v), mask)
        y, middle, normed2, rstd2, gate, up = finish(x, attended, tensors)
        return (y, q, k, v, attended, middle, gate, up, normed, rstd, normed2, rstd2, *kept)

    def backward(dy, x, cos, sin, *mask_tensors_and_saved):
        """dy [N, H] -> dx [N, H], followed by the gradients of what is trained, in the tensors' order."""
        mask, tensors = mask_tensors_and_saved[:masks], mask_tensors_and_saved[masks : masks + count]
        saved = mask_tensors_and_saved[masks + count :]
        q, k, v, attended, middle, gate, up, normed, rstd, normed2, rstd2, *kept = saved
        every_dy, seen2 = enter(dy), enter(normed2)
        dgate, dup, activation = swiglu_backward(apply_dx(every_dy, tensors, DOWN), gate, up)
        of_down = apply_gradients(every_dy, activation, tensors, DOWN)
        of_gate = apply_gradients(dgate, seen2, tensors, GATE)
        of_up = apply_gradients(dup, seen2, tensors, UP)
        dnormed2 = leave(apply_dx(dgate, tensors, GATE) + apply_dx(dup, tensors, UP))
        dmiddle, dnorm2 = rms_norm_backward(dnormed2, middle, rstd2, tensors[5])
        dmiddle = dmiddle + dy
        every_dmiddle, seen = enter(dmiddle), enter(normed)
        of_o = apply_gradients(every_dmiddle, attended, tensors, O)
        dattended = apply_dx(every_dmiddle, tensors, O)
        dq, dk, dv = attention_backward(dattended, attended, q, gather_keys(k), gather_keys(v), mask, kept)
        rows = attended.shape[0]
        dq = rotate(dq, cos, -sin).reshape(rows, heads * size)
        dk = rotate(scatter_keys(dk), cos, -sin).reshape(rows, key_heads * size)
        dv = scatter_keys(dv).reshape(rows, key_heads * size)
        of_q = apply_gradients(dq, seen, tensors, Q)
        of_k = apply_gradients(dk, seen, tensors, K)
        of_v = apply_gradients(dv, seen, tensors, V)
        dnormed = leave(apply_dx(dq, tensors, Q) + apply_dx(dk, tensors, K) + apply_dx(dv, tensors, V))
        dx, dnorm = rms_norm_backward(dnormed, x, rstd, tensors[0])
        dx = dx + dmiddle
        if trains_weights:
            return (dx, dnorm, *of_q, *of_k, *of_v, *of_o, dnorm2, *of_gate, *of_up, *of_down)
        return (dx, *of_q, *of_k, *of_v, *of_o, *of_gate, *of_up, *of_down)

    def selective_backward(dy, x, cos, sin, *mask_tensors_and_products):
        """`backward` that saved what matrix products gave: norms and the attention's inside are computed again."""
        mask, tensors = mask_tensors_and_products[:masks], mask_tensors_and_products[masks : masks + count]
        q, k, v, _, middle, _, _ = mask_tensors_and_products[masks + count :]
        normed, normed2 = rms_norm(x, tensors[0], eps), rms_norm(middle, tensors[5], eps)
        _, kept = attention(q, gather_keys(k), gather_keys(v), mask)
        return backward(dy, x, cos, sin, *mask_tensors_and_products, *normed, *normed2, *kept)

    def recomputing_backward(dy, x, cos, sin, *mask_and_tensors):
        """`backward` that saved nothing but the block's input."""
        saved = forward(x, cos, sin, *mask_and_tensors)[1:]
        return backward(dy, x, cos, sin, *mask_and_tensors, *saved)

    def cached_forward(x, cos, sin, mask, places, k_cache, v_cache, *tensors):
        """x [T, H] of one sequence -> y [T, H]; its keys and values are written into the caches [k, S, d] first.

        mask [T, S] is 0 where position t may look and very negative elsewhere; places [k * T, 2] holds (key head,
        position) of each row that is written.
        """
        _, _, q, k, v = project(x, cos, sin, tensors)
        return finish(x, cached_attention(q, k, v, k_cache, v_cache, places, mask), tensors)[0]

    def cached_run(x, cos, sin, mask, places, *caches_and_tensors):
        """`cached_forward` through as many blocks as there are runs of (k_cache, v_cache, tensors)."""
        size = count + 2
        for first in range(0, len(caches_and_tensors), size):
            x = cached_forward(x, cos, sin, mask, places, *caches_and_tensors[first : first + size])
        return x

    def selective_forward(x, cos, sin, *mask_and_tensors):
        """`forward` that puts out no more than its backward takes."""
        return forward(x, cos, sin, *mask_and_tensors)[: 1 + products]

    def bare_forward(x, cos, sin, *mask_and_tensors):
        return forward(x, cos, sin, *mask_and_tensors)[:1]

    forwards = {"none": forward, "selective": selective_forward, "full": bare_forward}
    backwards = {"none": backward, "selective": selective_backward, "full": recomputing_backward}
    return forwards, backwards, cached_run
