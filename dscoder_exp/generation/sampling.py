"""From a row of logits to the next token."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Sampler = Callable[[NDArray[np.float32]], int]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; greedy while the temperature is 0.

    top_k keeps the k likeliest tokens, then top_p the likeliest ones that hold this much of their probability (at least
    one; nucleus sampling, arXiv:1904.09751).
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def sampler(self) -> Sampler:
        """A function of logits [V] that holds its own stream of random numbers."""
        if self.temperature == 0:
            return lambda logits: int(logits.argmax())
        generator = np.random.default_rng(self.seed)
        return lambda logits: self._draw(logits, generator)

    def _draw(self, logits: NDArray[np.float32], generator: np.random.Generator) -> int:
        kept = np.arange(len(logits))
        if self.top_k is not None and self.top_k < len(logits):
            kept = np.argpartition(logits, -self.top_k)[-self.top_k :]
        kept = kept[np.argsort(-logits[kept], kind="stable")]
        scaled = logits[kept].astype(np.float64) / self.temperature
        probabilities = np.exp(scaled - scaled[0])
        probabilities /= probabilities.sum()
        if self.top_p is not None:
            before = np.cumsum(probabilities) - probabilities  # of the likelier tokens
            probabilities = probabilities[before < self.top_p]
        total = np.cumsum(probabilities)
        return int(kept[np.searchsorted(total, generator.random() * total[-1], side="right")])
