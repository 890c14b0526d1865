"""Weights that nothing trains, on the device in the precision that the model computes with."""

from math import prod

import mindspore as ms
import numpy as np
from mindspore import mint
from numpy.typing import NDArray

from dscoder_exp.device.memory import put, views_of
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.names import block_name, block_shapes

# Of a block, the matrices that multiply the same input: as one matrix, one product computes all of them.
MERGED = (
    ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
)


class FrozenWeights:
    """The tensors by name and, on Ascend, the merged matrices that some of them are views of. No weight is held twice.

    Attributes:
        tensors: those that were loaded, by name.
        merged: for each block its merged matrices, [q, k, v] and [gate, up], each [sum of their out, in]; or empty.
    """

    def __init__(self, config: LlamaConfig, dtype: ms.Type, *, merge: bool) -> None:
        """
        Args:
            config: of this rank's part of the model.
            merge: merge matrices. Not on the CPU, where a tensor uses its array's memory.
        """
        self.tensors: dict[str, ms.Tensor] = {}
        self.merged: list[list[ms.Tensor]] = []
        self._dtype = dtype
        self._views: dict[str, ms.Tensor] = {}
        shapes = block_shapes(config)
        for layer in range(config.num_hidden_layers if merge else 0):
            names = [{block_name(layer, suffix): shapes[suffix] for suffix in suffixes} for suffixes in MERGED]
            self.merged.append([self._allocate(group) for group in names])

    def _allocate(self, shapes: dict[str, tuple[int, ...]]) -> ms.Tensor:
        """A matrix of all rows, whose parts are kept as views until they are loaded."""
        flat = mint.empty((sum(map(prod, shapes.values())),), dtype=self._dtype)
        self._views |= dict(zip(shapes, views_of(flat, list(shapes.values())), strict=True))
        return flat.view((-1, next(iter(shapes.values()))[1]))

    def load(self, name: str, array: NDArray[np.float32]) -> None:
        """Put this rank's part of a tensor on the device. The tensor may use the array's memory."""
        tensor = put(array)
        if name in self._views:
            self._views[name].copy_(tensor)  # rounds to the view's dtype
            tensor = self._views.pop(name)
        self.tensors[name] = tensor if tensor.dtype == self._dtype else tensor.astype(self._dtype)
