"""Dropout of what LoRA's factors read: the masks of a micro step, made on the host."""

from collections.abc import Iterator

import mindspore as ms
import numpy as np

from dscoder_exp.model.llama import Llama

LEVELS = 2**16  # of the random numbers; the rate is exact to half of one


class Dropout:
    """Masks (0, or 1 / (1 - rate)) of the four arrays that a block's matrices read; those that read one share it.

    They follow from the key alone, so that a block's backward, and a run that goes on, have the same.
    """

    def __init__(self, model: Llama, key: tuple[int, ...]) -> None:
        """
        Args:
            key: tells this micro step from all others: seed, optimizer step, micro step, rank.
        """
        config = model.config
        heads = config.num_attention_heads * config.head_dim
        self._widths = (config.hidden_size, heads, config.hidden_size, config.intermediate_size)
        self._rate = model.lora.dropout if model.lora else 0.0
        self._key = key

    def masks(self, layer: int, rows: int) -> list[ms.Tensor]:
        """Of one block, each fp32 [rows, width]; none where nothing is dropped."""
        return list(self._drawn(layer, rows)) if self._rate else []

    def _drawn(self, layer: int, rows: int) -> Iterator[ms.Tensor]:
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((*self._key, layer))))
        least, kept = round(self._rate * LEVELS), np.float32(1 / (1 - self._rate))
        for width in self._widths:
            drawn = generator.integers(0, LEVELS, (rows, width), np.uint16)
            yield ms.Tensor.from_numpy((drawn >= least) * kept)
