"""Rotary position embedding: tables of cos and sin by position, computed once on the host."""

import mindspore as ms
import numpy as np
from numpy.typing import NDArray

from dscoder_exp.device.memory import put
from dscoder_exp.schema.llama import LlamaConfig


def rotary_tables(
    config: LlamaConfig, positions: NDArray[np.integer]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """cos and sin of each position's angles, each [T, d], with two equal halves (RoFormer, arXiv:2104.09864).

    Args:
        positions: [T]; divided by rope_scaling.factor (linear scaling, Chen et al. 2023, arXiv:2306.15595).
    """
    size = config.head_dim
    frequencies = config.rope_theta ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    factor = config.rope_scaling.factor if config.rope_scaling is not None else 1.0
    angles = (positions[..., None] / factor) * frequencies
    both = np.concatenate([angles, angles], -1)
    return np.cos(both).astype(np.float32), np.sin(both).astype(np.float32)


class Rotary:
    """A model's rotary tables on the device: max_position_embeddings positions, grown when more are requested."""

    def __init__(self, config: LlamaConfig) -> None:
        self._config, self._length = config, 0
        self._tables: list[ms.Tensor] = []

    def tables(self, positions: int) -> list[ms.Tensor]:
        """cos and sin, each fp32 [S, d] with S >= `positions`."""
        if positions > self._length:
            self._length = max(self._config.max_position_embeddings, 1 << (positions - 1).bit_length())
            self._tables = [put(table) for table in rotary_tables(self._config, np.arange(self._length))]
        return self._tables
