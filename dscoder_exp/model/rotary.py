"""Rotary position embedding's tables, computed on the host once a batch and handed to every block."""

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.schema.llama import LlamaConfig


def rotary_tables(
    config: LlamaConfig, positions: NDArray[np.integer]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """cos and sin of each position's angles, each [B, T, 1, d], both halves alike (RoFormer, arXiv:2104.09864).

    Args:
        positions: [B, T]; linear scaling divides them (Chen et al. 2023, arXiv:2306.15595).
    """
    size = config.head_dim
    frequencies = config.rope_theta ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    factor = config.rope_scaling.factor if config.rope_scaling is not None else 1.0
    angles = (positions[..., None] / factor) * frequencies
    both = np.concatenate([angles, angles], -1)[:, :, None]
    return np.cos(both).astype(np.float32), np.sin(both).astype(np.float32)
