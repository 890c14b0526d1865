"""Fresh weights from a seed, distributed as Hugging Face initialises a Llama."""

from collections.abc import Iterator

import numpy as np

from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.names import expected

STANDARD_DEVIATION = 0.02


def random_weights(config: LlamaConfig, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, float32 array) one at a time: norms are ones, the rest normal(0, 0.02)."""
    for name in expected(config):
        yield name, random_tensor(config, seed, name)


def random_tensor(config: LlamaConfig, seed: int, name: str) -> np.ndarray:
    """One of them. Each has a stream of its own, so that a prefix of the layers is the same whatever the depth."""
    shapes = expected(config)
    if len(shapes[name]) == 1:
        return np.ones(shapes[name], np.float32)
    generator = np.random.default_rng([seed, list(shapes).index(name)])
    return generator.standard_normal(shapes[name], np.float32) * np.float32(STANDARD_DEVIATION)
