"""Rotary position embedding: tables of cos and sin by position, computed once on the host."""

import mindspore as ms
import numpy as np
from numpy.typing import NDArray

from dscoder_exp.device.memory import put
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.rotary_frequencies import rotary_frequencies


def rotary_tables(
    config: LlamaConfig, positions: NDArray[np.integer]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """cos and sin of each position's angles, each [T, d], with two equal halves (RoFormer, arXiv:2104.09864).

    Args:
        positions: [T].
    """
    frequencies, factor = rotary_frequencies(config)
    angles = positions[..., None] * frequencies
    cos, sin = ((factor * part).astype(np.float32) for part in (np.cos(angles), np.sin(angles)))
    return np.concatenate([cos, cos], -1), np.concatenate([sin, sin], -1)


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
