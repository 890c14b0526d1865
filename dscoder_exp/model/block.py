"""A Llama block: attention, MLP, and both in a row; forward, backward, and forward over a key/value cache.

The functions are plain Python over arrays (dimensions: see kernels/__init__.py). compiled.py compiles each one once and
calls it for every layer. A block's tensors are its weights in the order of weights/names.py, each [out, in] as Hugging
Face stores it, followed by LoRA's factors and dropout masks (projections.py).
Sources: LLaMA (arXiv:2302.13971), grouped-query attention (arXiv:2305.13245).
"""

from dscoder_exp.model.kernels import Kernels
from dscoder_exp.model.kernels.cpu import cached_attention
from dscoder_exp.model.projections import (
    DOWN,
    GATE,
    INPUT_NORM,
    POST_ATTENTION_NORM,
    UP,
    K,
    O,
    Q,
    V,
    make_projections,
    num_tensors,
)
from dscoder_exp.model.tensor_parallel import BlockCollectives
from dscoder_exp.schema.llama import LlamaConfig, Lora

# By train.recompute: number of arrays saved for the backward, the first that `forward` returns after y; None: all.
SAVED = {"none": None, "selective": 7, "full": 0}


def make_attention(config: LlamaConfig, kernels: Kernels, collectives: BlockCollectives, projections):
    """forward, backward and cached_forward of the first half: x + attention(norm(x))."""
    eps = config.rms_norm_eps
    rms_norm, rms_norm_backward, add = kernels.rms_norm, kernels.rms_norm_backward, kernels.add
    split_heads, join_heads, rotate = kernels.split_heads, kernels.join_heads, kernels.rotate
    attention, attention_backward = kernels.attention, kernels.attention_backward
    gather_rows, reduce_rows = collectives.gather_rows, collectives.reduce_rows
    gather_kv, reduce_kv = collectives.gather_kv, collectives.reduce_kv
    project, project_dx, project_gradients = projections

    def project_qkv(x, cos, sin, tensors):
        """x [N, H] -> normed [N, H], rstd, q [B, T, h, d] and k [B, T, k, d] rotated, v [B, T, k, d]."""
        normed, rstd = rms_norm(x, tensors[INPUT_NORM], eps)
        all_normed = gather_rows(normed)
        q = split_heads(project(all_normed, tensors, Q), cos)
        k = split_heads(project(all_normed, tensors, K), cos)
        v = split_heads(project(all_normed, tensors, V), cos)
        return normed, rstd, rotate(q, cos, sin), rotate(k, cos, sin), v

    def forward(x, cos, sin, mask, tensors):
        """x [N, H] -> y [N, H], and for `backward` (q, k, v, attended), (normed, rstd) and what the kernel saved."""
        normed, rstd, q, k, v = project_qkv(x, cos, sin, tensors)
        attended, kernel_saved = attention(q, gather_kv(k), gather_kv(v), mask)
        y = add(x, reduce_rows(project(attended, tensors, O)))
        return y, (q, k, v, attended), (normed, rstd), kernel_saved

    def backward(dy, x, cos, sin, mask, tensors, qkv_attended, norm, kernel_saved):
        """dy [N, H] -> dx [N, H], the norm's gradient [H], and a tuple of the matrices' or LoRA's gradients."""
        q, k, v, attended = qkv_attended
        normed, rstd = norm
        all_dy, all_normed = gather_rows(dy), gather_rows(normed)
        o_gradients = project_gradients(all_dy, attended, tensors, O)
        dattended = project_dx(all_dy, tensors, O)
        dq, dk, dv = attention_backward(dattended, attended, q, gather_kv(k), gather_kv(v), mask, kernel_saved)
        dq = join_heads(rotate(dq, cos, -sin))
        dk = join_heads(rotate(reduce_kv(dk), cos, -sin))
        dv = join_heads(reduce_kv(dv))
        q_gradients = project_gradients(dq, all_normed, tensors, Q)
        k_gradients = project_gradients(dk, all_normed, tensors, K)
        v_gradients = project_gradients(dv, all_normed, tensors, V)
        dq_dk = add(project_dx(dq, tensors, Q), project_dx(dk, tensors, K))
        dnormed = reduce_rows(add(dq_dk, project_dx(dv, tensors, V)))
        dx, dnorm = rms_norm_backward(dnormed, x, rstd, tensors[INPUT_NORM])
        return add(dx, dy), dnorm, (*q_gradients, *k_gradients, *v_gradients, *o_gradients)

    def cached_forward(x, cos, sin, mask, indices, k_cache, v_cache, tensors):
        """x [T, H] of one sequence -> y [T, H], after its keys and values are written into the caches."""
        _, _, q, k, v = project_qkv(x, cos, sin, tensors)
        attended = cached_attention(q, k, v, k_cache, v_cache, indices, mask)
        return add(x, reduce_rows(project(attended, tensors, O)))

    return forward, backward, cached_forward


def make_mlp(config: LlamaConfig, kernels: Kernels, collectives: BlockCollectives, projections):
    """forward and backward of the second half: x + down(silu(gate(norm(x))) * up(norm(x)))."""
    eps = config.rms_norm_eps
    rms_norm, rms_norm_backward, add = kernels.rms_norm, kernels.rms_norm_backward, kernels.add
    swiglu, swiglu_backward = kernels.swiglu, kernels.swiglu_backward
    gather_rows, reduce_rows = collectives.gather_rows, collectives.reduce_rows
    project, project_dx, project_gradients = projections

    def forward(x, tensors):
        """x [N, H] -> y [N, H], and for `backward` (gate, up) [N, F] and (normed, rstd)."""
        normed, rstd = rms_norm(x, tensors[POST_ATTENTION_NORM], eps)
        all_normed = gather_rows(normed)
        gate, up = project(all_normed, tensors, GATE), project(all_normed, tensors, UP)
        y = add(x, reduce_rows(project(swiglu(gate, up), tensors, DOWN)))
        return y, (gate, up), (normed, rstd)

    def backward(dy, x, tensors, gate_up, norm):
        """dy [N, H] -> dx [N, H], the norm's gradient [H], and a tuple of the matrices' or LoRA's gradients."""
        gate, up = gate_up
        normed, rstd = norm
        all_dy, all_normed = gather_rows(dy), gather_rows(normed)
        dgate, dup, activation = swiglu_backward(project_dx(all_dy, tensors, DOWN), gate, up)
        down_gradients = project_gradients(all_dy, activation, tensors, DOWN)
        gate_gradients = project_gradients(dgate, all_normed, tensors, GATE)
        up_gradients = project_gradients(dup, all_normed, tensors, UP)
        dnormed = reduce_rows(add(project_dx(dgate, tensors, GATE), project_dx(dup, tensors, UP)))
        dx, dnorm = rms_norm_backward(dnormed, x, rstd, tensors[POST_ATTENTION_NORM])
        return add(dx, dy), dnorm, (*gate_gradients, *up_gradients, *down_gradients)

    return forward, backward


def make_block(
    config: LlamaConfig,
    kernels: Kernels,
    collectives: BlockCollectives,
    lora: Lora | None = None,
    *,
    dropout: bool = False,
):
    """A block's forward and backward functions, each a dict by train.recompute.

    They are closures over numbers and functions, and take and return flat lists of arrays: MindSpore's graph parser can
    read that, and doesn't compile it again at each call (a tuple of arrays counts as a constant).

    Args:
        config: of this rank's part of the block. x and y have N rows, or N / t where `collectives` split rows.
        lora: shape of the LoRA factors, which are trained instead of the weights; None: the weights are trained.
        dropout: apply dropout to the factors' inputs, as training with lora.dropout does.
    """
    projections = make_projections(kernels, lora, dropout=dropout)
    attention_forward, attention_backward, _ = make_attention(config, kernels, collectives, projections)
    mlp_forward, mlp_backward = make_mlp(config, kernels, collectives, projections)
    masks, count, trains_weights = kernels.num_masks, num_tensors(lora, dropout=dropout), lora is None

    def forward(x, cos, sin, *mask_and_tensors):
        """x [N, H] -> y [N, H], followed by the arrays that `backward` takes as saved."""
        mask, tensors = mask_and_tensors[:masks], mask_and_tensors[masks:]
        middle, qkv_attended, norm, kernel_saved = attention_forward(x, cos, sin, mask, tensors)
        y, gate_up, norm2 = mlp_forward(middle, tensors)
        return (y, *qkv_attended, middle, *gate_up, *norm, *norm2, *kernel_saved)

    def backward(dy, x, cos, sin, *mask_tensors_and_saved):
        """dy [N, H] -> dx [N, H], followed by the gradients of the trained tensors, in the tensors' order."""
        mask, tensors = mask_tensors_and_saved[:masks], mask_tensors_and_saved[masks : masks + count]
        saved = mask_tensors_and_saved[masks + count :]
        q, k, v, attended, middle, gate, up, normed, rstd, normed2, rstd2, *kernel_saved = saved
        dmiddle, dnorm2, mlp_gradients = mlp_backward(dy, middle, tensors, (gate, up), (normed2, rstd2))
        dx, dnorm, attention_gradients = attention_backward(
            dmiddle, x, cos, sin, mask, tensors, (q, k, v, attended), (normed, rstd), kernel_saved
        )
        if trains_weights:
            return (dx, dnorm, *attention_gradients, dnorm2, *mlp_gradients)
        return (dx, *attention_gradients, *mlp_gradients)

    return _by_recompute(forward, backward, count, config, kernels, collectives)


def _by_recompute(forward, backward, count, config: LlamaConfig, kernels: Kernels, collectives: BlockCollectives):
    """Variants of a block's forward and backward by train.recompute; they save fewer arrays and recompute others."""
    masks, num_selective = kernels.num_masks, SAVED["selective"]
    rms_norm, eps = kernels.rms_norm, config.rms_norm_eps
    attention, gather_kv = kernels.attention, collectives.gather_kv

    def selective_forward(x, cos, sin, *mask_and_tensors):
        """`forward` that returns only what `selective_backward` takes."""
        return forward(x, cos, sin, *mask_and_tensors)[: 1 + num_selective]

    def selective_backward(dy, x, cos, sin, *mask_tensors_and_saved):
        """`backward` from the saved results of matrix products: computes norms and the kernel's saved arrays again."""
        mask, tensors = mask_tensors_and_saved[:masks], mask_tensors_and_saved[masks : masks + count]
        q, k, v, _, middle, _, _ = mask_tensors_and_saved[masks + count :]
        norm, norm2 = rms_norm(x, tensors[INPUT_NORM], eps), rms_norm(middle, tensors[POST_ATTENTION_NORM], eps)
        _, kernel_saved = attention(q, gather_kv(k), gather_kv(v), mask)
        return backward(dy, x, cos, sin, *mask_tensors_and_saved, *norm, *norm2, *kernel_saved)

    def full_forward(x, cos, sin, *mask_and_tensors):
        """`forward` that returns (y,)."""
        return forward(x, cos, sin, *mask_and_tensors)[:1]

    def full_backward(dy, x, cos, sin, *mask_and_tensors):
        """`backward` from the block's input alone: computes the whole forward again."""
        saved = forward(x, cos, sin, *mask_and_tensors)[1:]
        return backward(dy, x, cos, sin, *mask_and_tensors, *saved)

    forwards = {"none": forward, "selective": selective_forward, "full": full_forward}
    backwards = {"none": backward, "selective": selective_backward, "full": full_backward}
    return forwards, backwards


def make_cached_run(config: LlamaConfig, kernels: Kernels, collectives: BlockCollectives, lora: Lora | None = None):
    """The function cached_run: forward of several blocks in a row over their key/value caches, to decode on the CPU."""
    projections = make_projections(kernels, lora)
    _, _, attention_forward = make_attention(config, kernels, collectives, projections)
    mlp_forward, _ = make_mlp(config, kernels, collectives, projections)
    size = num_tensors(lora) + 2

    def cached_run(x, cos, sin, mask, indices, *caches_and_tensors):
        """x [T, H] of one sequence -> y [T, H]; k and v are written into the caches, in place.

        mask [T, S] is 0 where position t may attend, very negative elsewhere. indices [k * T, 2] holds the (key head,
        position) of each written row. caches_and_tensors holds for each block k_cache and v_cache, both [k, S, d], and
        the block's tensors.
        """
        for first in range(0, len(caches_and_tensors), size):
            k_cache, v_cache = caches_and_tensors[first], caches_and_tensors[first + 1]
            tensors = caches_and_tensors[first + 2 : first + size]
            middle = attention_forward(x, cos, sin, mask, indices, k_cache, v_cache, tensors)
            x = mlp_forward(middle, tensors)[0]
        return x

    return cached_run
