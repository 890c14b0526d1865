"""Initial weights from a seed, distributed as in Hugging Face's Llama."""

from collections.abc import Iterator

import numpy as np

from dscoder_exp.schema.llama import LlamaConfig, Lora
from dscoder_exp.weights.names import factor_shapes, parameter_shapes

STANDARD_DEVIATION = 0.02


def random_weights(config: LlamaConfig, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, float32 array) of each tensor: norms are ones, all others normal(0, 0.02)."""
    for name in parameter_shapes(config):
        yield name, random_tensor(config, seed, name)


def random_tensor(config: LlamaConfig, seed: int, name: str) -> np.ndarray:
    """The float32 array of one tensor. Each has its own random stream, so that a layer doesn't depend on the depth."""
    shapes = parameter_shapes(config)
    if len(shapes[name]) == 1:
        return np.ones(shapes[name], np.float32)
    generator = np.random.default_rng([seed, list(shapes).index(name)])
    values = generator.standard_normal(shapes[name], np.float32)
    values *= np.float32(STANDARD_DEVIATION)  # in place: 7B's embedding is 1.7 GB
    return values


def random_factors(config: LlamaConfig, lora: Lora, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, float32 array) of initial LoRA factors, as in PEFT: A uniform(-1, 1) / sqrt(in), B zeros."""
    for number, (name, shape) in enumerate(factor_shapes(config, lora).items()):
        if "lora_B" in name:
            yield name, np.zeros(shape, np.float32)
            continue
        generator = np.random.default_rng([seed, number, 1])  # differs from the weights' streams
        yield name, (generator.random(shape, np.float32) * 2 - 1) * np.float32(shape[1] ** -0.5)
