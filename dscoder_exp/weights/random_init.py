"""Fresh weights from a seed, distributed as Hugging Face initialises a Llama."""

from collections.abc import Iterator

import numpy as np

from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.names import expected

STANDARD_DEVIATION = 0.02


def random_weights(config: LlamaConfig, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, float32 array) one at a time: norms are ones, the rest normal(0, 0.02).

    Each tensor has a stream of its own, so that a prefix of the layers is the same whatever the depth.
    """
    for index, (name, shape) in enumerate(expected(config).items()):
        if len(shape) == 1:
            yield name, np.ones(shape, np.float32)
        else:
            generator = np.random.default_rng([seed, index])
            yield name, generator.standard_normal(shape, np.float32) * np.float32(STANDARD_DEVIATION)
