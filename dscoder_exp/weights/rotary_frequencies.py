"""Frequencies of rotary position embedding (RoFormer, arXiv:2104.09864), as a model's rope scaling stretches them.

The formulas are those of transformers' modeling_rope_utils.py (_compute_linear_scaling_rope_parameters,
_compute_llama3_parameters, _compute_yarn_parameters), in float64.
"""

import math

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.schema.llama import LlamaConfig, RopeScaling

BETA_FAST, BETA_SLOW = 32.0, 1.0  # yarn's, where a model names none (Peng et al. 2023, arXiv:2309.00071)


def rotary_frequencies(config: LlamaConfig) -> tuple[NDArray[np.float64], float]:
    """The angle, in radians, by which each pair turns per position [d/2], and the factor of cos and sin."""
    size, scaling = config.head_dim, config.rope_scaling
    frequencies = plain_frequencies(size, config.rope_theta)
    if scaling is None:
        return frequencies, 1.0
    if scaling.type == "llama3":
        return frequencies / llama3_divisors(frequencies, scaling), 1.0
    if scaling.type == "yarn":
        return frequencies / _yarn_divisors(size, config.rope_theta, scaling), attention_factor(scaling)
    return frequencies / scaling.factor, 1.0  # Chen et al. 2023, arXiv:2306.15595


def plain_frequencies(size: int, theta: float) -> NDArray[np.float64]:
    """Those without scaling [size / 2]: theta^(-2i / size)."""
    return theta ** (-np.arange(0, size, 2, dtype=np.float64) / size)


def llama3_divisors(frequencies: NDArray[np.float64], scaling: RopeScaling) -> NDArray[np.float64]:
    """By what llama3 divides each frequency: long waves by `factor`, short ones by 1, those between smoothly."""
    length, low, high = scaling.original_max_position_embeddings, scaling.low_freq_factor, scaling.high_freq_factor
    assert length is not None
    assert low is not None
    assert high is not None
    waves = length * frequencies / (2 * math.pi)  # full turns in the original context
    kept = np.clip((waves - low) / (high - low), 0, 1)
    return 1 / ((1 - kept) / scaling.factor + kept)


def _yarn_divisors(size: int, theta: float, scaling: RopeScaling) -> NDArray[np.float64]:
    """By what yarn divides each frequency: slower than beta_slow turns by `factor`, faster than beta_fast by 1."""
    length = scaling.original_max_position_embeddings
    assert length is not None

    def pair(turns: float) -> float:
        """The number of the pair that turns so often in the original context."""
        return size * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair(scaling.beta_fast or BETA_FAST), pair(scaling.beta_slow or BETA_SLOW)
    if scaling.truncate is not False:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    width = last - first or 0.001  # as in transformers, where they are one pair
    stretched = np.clip((np.arange(size // 2) - first) / width, 0, 1)
    return 1 / (stretched / scaling.factor + 1 - stretched)


def attention_factor(scaling: RopeScaling) -> float:
    """What yarn multiplies cos and sin by, so that attention's logits are multiplied by its square."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(scaling.factor) + 1 if scaling.factor > 1 else 1.0

    if scaling.mscale and scaling.mscale_all_dim:
        return mscale(scaling.mscale) / mscale(scaling.mscale_all_dim)
    return mscale(1)
