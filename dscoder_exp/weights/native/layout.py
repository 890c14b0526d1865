"""How tensors are cut over tensor-parallel ranks (Megatron-LM's rule, arXiv:1909.08053): in files, and in a model.

A projection into heads or into the MLP is cut by its outputs, the one back by its inputs, the two tables by their
vocabulary. Norms are kept whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dscoder_exp.schema.llama import LlamaConfig

OUTPUTS, INPUTS = 0, 1
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
OF_KEYS = ("k_proj", "v_proj")


@dataclass(frozen=True)
class Cut:
    """A tensor of `shape` in `num_slices` equal slices along `axis`; one slice, axis None: it is whole."""

    shape: tuple[int, ...]
    axis: int | None
    num_slices: int

    @property
    def slice_shape(self) -> tuple[int, ...]:
        return tuple(size // self.num_slices if axis == self.axis else size for axis, size in enumerate(self.shape))

    def slice_of(self, rank: int) -> tuple[slice, ...]:
        """Where a rank's slice lies in the whole; all of it lies with each rank, where it isn't cut."""
        return tuple(
            slice(rank * size, (rank + 1) * size) if axis == self.axis else slice(None)
            for axis, size in enumerate(self.slice_shape)
        )


@dataclass(frozen=True)
class Held:
    """What a tensor-parallel rank holds of a tensor while it computes: `slice_of` the whole, as `copies` ranks do."""

    slices: tuple[slice, ...]
    copies: int

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """Of the part, from that of the whole."""
        return tuple(len(range(size)[part]) for size, part in zip(whole, self.slices, strict=True))

    def size(self, whole: tuple[int, ...]) -> int:
        return math.prod(self.shape(whole))

    def of(self, whole: np.ndarray) -> np.ndarray:
        """An array of its own, unless it is all of it."""
        return whole if whole[self.slices].shape == whole.shape else np.ascontiguousarray(whole[self.slices])

    def cut(self, array: np.ndarray, wanted: tuple[slice, ...]) -> np.ndarray:
        """A smaller part of the whole, out of the array that holds this one."""
        inside = zip(wanted, self.slices, strict=True)
        return array[tuple(_shifted(part, own.start or 0) for part, own in inside)]


def cut_of(name: str, shape: tuple[int, ...], tp_size: int) -> Cut:
    """How the tensor of this name is cut N ways. One whose axis N doesn't divide is whole."""
    *_, module, last, _ = ("", *name.split("."))  # of a factor: the matrix it stands beside, and lora_A or lora_B
    axis = AXES.get(module if last.startswith("lora_") else last)
    if (last, axis) in (("lora_A", OUTPUTS), ("lora_B", INPUTS)):
        axis = None  # the matrix's cut side isn't this factor's
    if tp_size == 1 or axis is None or shape[axis] % tp_size:
        return Cut(shape, None, 1)
    return Cut(shape, axis, tp_size)


def held(name: str, shape: tuple[int, ...], config: LlamaConfig, rank: int, tp_size: int) -> Held:
    """A rank's part; where key heads are fewer than ranks, neighbours hold the same one."""
    heads = config.num_key_value_heads
    own_size = min(tp_size, heads) if any(f".{module}." in name for module in OF_KEYS) else tp_size
    cut = cut_of(name, shape, own_size)
    return Held(cut.slice_of(rank * own_size // tp_size), tp_size // cut.num_slices)


def rank_config(config: LlamaConfig, tp_size: int) -> LlamaConfig:
    """The shape of what one of N ranks computes."""
    return replace(
        config,
        vocab_size=config.vocab_size // tp_size,
        intermediate_size=config.intermediate_size // tp_size,
        num_attention_heads=config.num_attention_heads // tp_size,
        num_key_value_heads=max(1, config.num_key_value_heads // tp_size),
    )


def uneven(config: LlamaConfig, tp_size: int) -> list[str]:
    """Sizes of a model that can't be shared out over N ranks, in words; empty: it can be."""
    names = ("vocab_size", "intermediate_size", "num_attention_heads")
    found = [f"{name} {getattr(config, name)}" for name in names if getattr(config, name) % tp_size]
    heads = config.num_key_value_heads
    if heads % tp_size and tp_size % heads:
        found.append(f"num_key_value_heads {heads}")
    elif heads % tp_size and config.head_dim % (tp_size // heads):
        found.append(
            f"head_dim {config.head_dim}, of which {tp_size // heads} ranks with one key head each save a part"
        )
    return found


def _shifted(part: slice, by: int) -> slice:
    return slice(part.start - by, part.stop - by) if part.start is not None else part


def file_name(rank: int, tp_size: int) -> str:
    """`model.safetensors` of a whole checkpoint, else `model-rank-03-of-08.safetensors`."""
    return "model.safetensors" if tp_size == 1 else f"model-rank-{rank:02d}-of-{tp_size:02d}.safetensors"
