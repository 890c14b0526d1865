"""Sampling the next token from its logits."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Sampler = Callable[[NDArray[np.float32]], int]


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters; greedy if the temperature is 0.

    top_k keeps the k most probable tokens. Of their probability, renormalized, top_p then keeps the fewest tokens whose
    sum reaches top_p (nucleus sampling, arXiv:1904.09751). None: no limit.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def sampler(self) -> Sampler:
        """A function from logits [V] to a token id, with a random generator of its own, seeded with `seed`."""
        if self.temperature == 0:
            return lambda logits: int(logits.argmax())
        generator = np.random.default_rng(self.seed)
        return lambda logits: self._sample(logits, generator)

    def _sample(self, logits: NDArray[np.float32], generator: np.random.Generator) -> int:
        kept = np.arange(len(logits))
        if self.top_k is not None and self.top_k < len(logits):
            kept = np.argpartition(logits, -self.top_k)[-self.top_k :]
        kept = kept[np.argsort(-logits[kept], kind="stable")]
        scaled = logits[kept].astype(np.float64) / self.temperature
        probabilities = np.exp(scaled - scaled[0])
        probabilities /= probabilities.sum()
        if self.top_p is not None:
            before = np.cumsum(probabilities) - probabilities  # sum over the more probable tokens
            probabilities = probabilities[before < self.top_p]
        total = np.cumsum(probabilities)
        return int(kept[np.searchsorted(total, generator.random() * total[-1], side="right")])
