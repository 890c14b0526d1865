"""The functions of decoding on Ascend: the model over a key/value cache (kernels/ascend_decoding.py).

They compute what block.py and head.py do, with fewer operators. The residual x and `delta`, what is yet to be added to
it, are passed on as two arrays, since one operator adds them and norms the sum. The N rows are a token of each slot, or
tokens of one slot, a chunk. Other dimensions: see kernels/__init__.py.
"""

from dataclasses import dataclass

import mindspore as ms
from mindspore import ops

from dscoder_exp.model.kernels import Function, Kernels
from dscoder_exp.model.kernels import ascend_decoding as fused
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
from dscoder_exp.model.vocabulary import make_lookup, make_softmax
from dscoder_exp.parallel.collectives import ProcessGroup
from dscoder_exp.schema.llama import LlamaConfig, Lora

NUM_MERGED = 6  # a block's tensors where some are merged: norm, [q, k, v], o, norm, [gate, up], down
NUM_CACHE = 3  # a block's cache, keys and values


@dataclass(frozen=True)
class FusedDecoding:
    """The functions of one model; compiled.py compiles them. `…_step`: of a token of each slot; `…_chunk`: a chunk."""

    embed_step: Function
    embed_chunk: Function
    run_step: Function
    run_chunk: Function
    logits_step: Function
    logits_chunk: Function


def make_fused_decoding(
    config: LlamaConfig,
    kernels: Kernels,
    collectives: BlockCollectives,
    tensor: ProcessGroup,
    dtype: ms.Type,
    lora: Lora | None,
    *,
    merged: bool,
) -> FusedDecoding:
    """
    Args:
        config: of this rank's part.
        tensor: group of the ranks that share the vocabulary.
        dtype: of x.
        merged: whether blocks' tensors are merged (frozen.py); else they are block.py's.
    """
    projections = _merged_projections(kernels) if merged else _separate_projections(kernels, lora)
    return FusedDecoding(
        *_make_embed(config, kernels, collectives, tensor, dtype),
        _make_run(config, collectives, projections, fused.attend_step, 1),
        _make_run(config, collectives, projections, fused.attend_chunk, 2),
        *_make_logits(config, kernels, tensor),
    )


def _make_embed(
    config: LlamaConfig, kernels: Kernels, collectives: BlockCollectives, tensor: ProcessGroup, dtype: ms.Type
):
    take_rows, reduce_rows = kernels.take_rows, collectives.reduce_rows
    take, _ = make_lookup(config.vocab_size, kernels, tensor)

    def embed_chunk(ids, positions, offsets, halves, is_value, embedding, cos_table, sin_table):
        """-> x [N, H]; the cache's rows to write [2 N]; cos and sin [N, 1, h + 2 k, d].

        ids: int32 [N]; positions: int32 [N, 1, 1].
        offsets: int32 [N, 1, 1], the row of each slot's position 0.
        halves: int32 [1, 1, 2], the first rows of keys and of values.
        is_value: int32 [1, 1, h + 2 k], P for a head of values, else 0.
        cos_table, sin_table: [2 P, d], of P positions, and then 1 and 0: heads of values are rotated by no angle.
        """
        x = reduce_rows(ops.cast(take(embedding, ids), dtype))
        rows = (positions + offsets + halves).reshape(-1)
        angles = positions + is_value
        return x, rows, take_rows(cos_table, angles), take_rows(sin_table, angles)

    def embed_step(ids, positions, offsets, halves, is_value, embedding, cos_table, sin_table, key_positions):
        """The same, and the mask bool [N, 1, S]; key_positions: int32 [1, 1, S]."""
        arrays = embed_chunk(ids, positions, offsets, halves, is_value, embedding, cos_table, sin_table)
        return (*arrays, key_positions > positions)

    return embed_step, embed_chunk


def _make_run(config: LlamaConfig, collectives: BlockCollectives, projections, attend: Function, num_extents: int):
    """
    Args:
        attend: attend_step with a mask as its extents, or attend_chunk with lengths: num_extents arrays.
    """
    kv_heads, size, eps = config.num_key_value_heads, config.head_dim, config.rms_norm_eps
    kv_width, q_width = kv_heads * size, config.num_attention_heads * size
    reduce_rows = collectives.reduce_rows
    project_qkv, project_o, project_gate_up, project_down, norms, count = projections
    first_norm, second_norm = norms

    def block(x, delta, rows, cos, sin, extents, cache, tensors):
        normed, x = fused.add_rms_norm(x, delta, tensors[first_norm], eps)
        qkv = project_qkv(normed, tensors)
        rotated = fused.rotate_heads(qkv.reshape(cos.shape), cos, sin).reshape(qkv.shape)
        q, kv = fused.split_columns(rotated, (q_width, 2 * kv_width))
        written = fused.write_rows(cache[0], rows, kv.reshape(-1, kv_width))
        keys, values = ops.depend(cache[1], written), ops.depend(cache[2], written)
        delta = reduce_rows(project_o(attend(q, keys, values, extents, kv_heads, size), tensors))
        normed, x = fused.add_rms_norm(x, delta, tensors[second_norm], eps)
        return x, reduce_rows(project_down(fused.swiglu_merged(project_gate_up(normed, tensors)), tensors))

    def run(x, delta, rows, cos, sin, *extents_and_blocks):
        """x, delta [N, H] -> x, delta, after the tokens' keys and values are written into the caches.

        extents_and_blocks: attend's, and for each block its cache, keys, values and tensors.
        """
        extents = extents_and_blocks[:num_extents]
        for first in range(num_extents, len(extents_and_blocks), NUM_CACHE + count):
            cache = extents_and_blocks[first : first + NUM_CACHE]
            tensors = extents_and_blocks[first + NUM_CACHE : first + NUM_CACHE + count]
            x, delta = block(x, delta, rows, cos, sin, extents, cache, tensors)
        return x, delta

    return run


def _merged_projections(kernels: Kernels):
    """project_qkv, project_o, project_gate_up, project_down: (x, tensors) -> y; norms' indices; number of tensors."""
    linear = kernels.linear

    def project_qkv(x, tensors):
        return linear(x, tensors[1])

    def project_o(x, tensors):
        return linear(x, tensors[2])

    def project_gate_up(x, tensors):
        return linear(x, tensors[4])

    def project_down(x, tensors):
        return linear(x, tensors[5])

    return project_qkv, project_o, project_gate_up, project_down, (0, 3), NUM_MERGED


def _separate_projections(kernels: Kernels, lora: Lora | None):
    """As _merged_projections, of tensors that are trained, or have LoRA factors."""
    project, _, _ = make_projections(kernels, lora)

    def project_qkv(x, tensors):
        return ops.concat((project(x, tensors, Q), project(x, tensors, K), project(x, tensors, V)), -1)

    def project_o(x, tensors):
        return project(x, tensors, O)

    def project_gate_up(x, tensors):
        return ops.concat((project(x, tensors, GATE), project(x, tensors, UP)), -1)

    def project_down(x, tensors):
        return project(x, tensors, DOWN)

    norms = INPUT_NORM, POST_ATTENTION_NORM
    return project_qkv, project_o, project_gate_up, project_down, norms, num_tensors(lora)


def _make_logits(config: LlamaConfig, kernels: Kernels, tensor: ProcessGroup):
    eps, linear, take_rows = config.rms_norm_eps, kernels.linear, kernels.take_rows
    _, all_logits = make_softmax(config.vocab_size, kernels, tensor)

    def logits(x, delta, norm, table):
        """x, delta [N, H] -> logits fp32 [N, whole vocabulary]."""
        return ops.cast(all_logits(linear(fused.add_rms_norm(x, delta, norm, eps)[0], table)), ms.float32)

    def logits_step(x, delta, positions, advances, norm, table):
        """-> logits, and what the next step may take: the most likely ids int32 [N], and positions + advances.

        positions, advances: int32 [N, 1, 1].
        """
        found = logits(x, delta, norm, table)
        return found, ops.cast(fused.most_likely(found), ms.int32), positions + advances

    def logits_chunk(x, delta, last, norm, table):
        """The logits [1, whole vocabulary] of the row `last`, int32 [1]."""
        return logits(take_rows(x, last), take_rows(delta, last), norm, table)

    return logits_step, logits_chunk
