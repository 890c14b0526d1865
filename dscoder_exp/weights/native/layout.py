"""How tensors are partitioned over tensor-parallel ranks (Megatron-LM, arXiv:1909.08053), in files and in memory.

Query, key, value, gate and up projections are partitioned by outputs, output and down projections by inputs, embedding
and head by vocabulary. Norms are replicated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dscoder_exp.schema.llama import LlamaConfig

OUTPUTS, INPUTS = 0, 1  # axes of a matrix [out, in]
AXES = {
    "embed_tokens": OUTPUTS,
    "lm_head": OUTPUTS,
    "q_proj": OUTPUTS,
    "k_proj": OUTPUTS,
    "v_proj": OUTPUTS,
    "o_proj": INPUTS,
    "gate_proj": OUTPUTS,
    "up_proj": OUTPUTS,
    "down_proj": INPUTS,
}
KEY_VALUE = ("k_proj", "v_proj")


@dataclass(frozen=True)
class Partition:
    """A tensor of `shape` in `num_slices` equal slices along `axis`; a whole tensor has one slice and axis None."""

    shape: tuple[int, ...]
    axis: int | None
    num_slices: int

    @property
    def slice_shape(self) -> tuple[int, ...]:
        return tuple(size // self.num_slices if axis == self.axis else size for axis, size in enumerate(self.shape))

    def slice_index(self, rank: int) -> tuple[slice, ...]:
        """Index of a rank's slice in the whole tensor; of the whole tensor if it isn't partitioned."""
        return tuple(
            slice(rank * size, (rank + 1) * size) if axis == self.axis else slice(None)
            for axis, size in enumerate(self.slice_shape)
        )


@dataclass(frozen=True)
class RankSlice:
    """A tensor-parallel rank's slice of a tensor in memory.

    slices: index of the slice in the whole tensor.
    copies: number of ranks that hold this same slice.
    """

    slices: tuple[slice, ...]
    copies: int

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the slice of a tensor of shape `whole`."""
        return tuple(len(range(size)[part]) for size, part in zip(whole, self.slices, strict=True))

    def size(self, whole: tuple[int, ...]) -> int:
        """Number of values in the slice of a tensor of shape `whole`."""
        return math.prod(self.shape(whole))

    def take(self, whole: np.ndarray) -> np.ndarray:
        """The slice of `whole` as a contiguous array; `whole` itself if the slice is all of it."""
        return whole if whole[self.slices].shape == whole.shape else np.ascontiguousarray(whole[self.slices])

    def subslice(self, array: np.ndarray, wanted: tuple[slice, ...]) -> np.ndarray:
        """The part at index `wanted` of the whole tensor, from the `array` that holds this slice."""
        inside = zip(wanted, self.slices, strict=True)
        return array[tuple(_shifted(part, own.start or 0) for part, own in inside)]


def partition_of(name: str, shape: tuple[int, ...], tp_size: int) -> Partition:
    """Partition of a tensor over `tp_size` ranks; it stays whole if its axis is not a multiple of `tp_size`."""
    *_, module, last, _ = ("", *name.split("."))  # of a LoRA factor: its matrix, and lora_A or lora_B
    axis = AXES.get(module if last.startswith("lora_") else last)
    if (last, axis) in (("lora_A", OUTPUTS), ("lora_B", INPUTS)):
        axis = None  # the factor doesn't have the matrix's partitioned axis
    if tp_size == 1 or axis is None or shape[axis] % tp_size:
        return Partition(shape, None, 1)
    return Partition(shape, axis, tp_size)


def rank_slice(name: str, shape: tuple[int, ...], config: LlamaConfig, rank: int, tp_size: int) -> RankSlice:
    """A rank's slice of a tensor; with fewer key heads than ranks, neighbouring ranks hold the same key head."""
    heads = config.num_key_value_heads
    own_size = min(tp_size, heads) if any(f".{module}." in name for module in KEY_VALUE) else tp_size
    partition = partition_of(name, shape, own_size)
    return RankSlice(partition.slice_index(rank * own_size // tp_size), tp_size // partition.num_slices)


def rank_config(config: LlamaConfig, tp_size: int) -> LlamaConfig:
    """The config of the part of the model that one of `tp_size` ranks computes."""
    return replace(
        config,
        vocab_size=config.vocab_size // tp_size,
        intermediate_size=config.intermediate_size // tp_size,
        num_attention_heads=config.num_attention_heads // tp_size,
        num_key_value_heads=max(1, config.num_key_value_heads // tp_size),
    )


def indivisible_sizes(config: LlamaConfig, tp_size: int) -> list[str]:
    """Sizes that can't be divided over `tp_size` ranks, as texts for a message; empty if all can."""
    names = ("vocab_size", "intermediate_size", "num_attention_heads")
    found = [f"{name} {getattr(config, name)}" for name in names if getattr(config, name) % tp_size]
    heads = config.num_key_value_heads
    if heads % tp_size and tp_size % heads:
        found.append(f"num_key_value_heads {heads}")
    elif heads % tp_size and config.head_dim % (tp_size // heads):
        found.append(
            f"head_dim {config.head_dim}, which {tp_size // heads} ranks with the same key head save in equal parts"
        )
    return found


def _shifted(part: slice, by: int) -> slice:
    return slice(part.start - by, part.stop - by) if part.start is not None else part


def file_name(rank: int, tp_size: int) -> str:
    """`model.safetensors` of a whole checkpoint, else `model-rank-03-of-08.safetensors`."""
    return "model.safetensors" if tp_size == 1 else f"model-rank-{rank:02d}-of-{tp_size:02d}.safetensors"
