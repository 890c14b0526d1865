"""How a checkpoint's tensors are cut over tensor-parallel ranks (Megatron-LM's rule, arXiv:1909.08053).

A projection into heads or into the MLP is cut by its outputs, the one back by its inputs, the two tables by their
vocabulary. Norms are kept whole, and so is a tensor whose axis N doesn't divide: both lie with rank 0.
"""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Cut:
    """A tensor of `shape` in `ways` equal slices along `axis`; one slice, axis None: it is whole."""

    shape: tuple[int, ...]
    axis: int | None
    ways: int

    @property
    def slice_shape(self) -> tuple[int, ...]:
        return tuple(size // self.ways if axis == self.axis else size for axis, size in enumerate(self.shape))


def cut_of(name: str, shape: tuple[int, ...], ways: int) -> Cut:
    """How the tensor of this name is cut N ways."""
    axis = AXES.get(name.split(".")[-2])
    if ways == 1 or axis is None or shape[axis] % ways:
        return Cut(shape, None, 1)
    return Cut(shape, axis, ways)


def file_name(rank: int, ways: int) -> str:
    """`model.safetensors` of a whole checkpoint, else `model-rank-03-of-08.safetensors`."""
    return "model.safetensors" if ways == 1 else f"model-rank-{rank:02d}-of-{ways:02d}.safetensors"
