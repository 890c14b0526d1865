"""From weights on disk, or from a seed, to a model on the device."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.model.llama import Llama
from dscoder_exp.model.units import Announce
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.names import expected
from dscoder_exp.weights.random_init import random_weights
from dscoder_exp.weights.source import WeightSource


def build(
    config: LlamaConfig,
    source: WeightSource | None,
    *,
    seed: int,
    device: str,
    precision: str,
    announce: Announce = lambda name: None,
) -> Llama:
    """The model of a checked source (weights/check.py), or with fresh weights drawn from `seed` where there is none."""
    weights = random_weights(config, seed) if source is None else _read(config, source)
    return Llama(config, weights, device=device, precision=precision, announce=announce)


def _read(config: LlamaConfig, source: WeightSource) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for name in expected(config):
        yield name, source.tensor(name)
