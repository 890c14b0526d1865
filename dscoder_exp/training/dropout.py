"""Dropout of what LoRA's factors read: the masks of a micro step, made on the host."""

from collections.abc import Iterator

import mindspore as ms
import numpy as np

from dscoder_exp.model.llama import Llama
from dscoder_exp.schema.llama import LlamaConfig

LEVELS = 2**16  # of the random numbers; the rate is exact to half of one


class Dropout:
    """Masks (0, or 1 / (1 - rate)) of the four arrays that a block's matrices read; those that read one share it.

    They follow from the key alone, so that a block's backward, and a run that goes on, have the same.
    """

    def __init__(self, model: Llama, key: tuple[int, ...]) -> None:
        """
        Args:
            key: tells this micro step from all others: seed, optimizer step, micro step, replica.
        """
        config, part, place = model.config, model.rank_config, model.mesh.place
        self._widths = (config.hidden_size, _heads(config), config.hidden_size, config.intermediate_size)
        own = (config.hidden_size, _heads(part), config.hidden_size, part.intermediate_size)
        self._columns = [
            slice(place.tensor_rank * width, (place.tensor_rank + 1) * width) if width < whole else slice(None)
            for width, whole in zip(own, self._widths, strict=True)
        ]
        self._rate = model.lora.dropout if model.lora else 0.0
        self._key = key

    def masks(self, layer: int, rows: int) -> list[ms.Tensor]:
        """Of one block, each fp32 [rows, width of this rank's part]; none where nothing is dropped."""
        return list(self._drawn(layer, rows)) if self._rate else []

    def _drawn(self, layer: int, rows: int) -> Iterator[ms.Tensor]:
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((*self._key, layer))))
        least, kept = round(self._rate * LEVELS), np.float32(1 / (1 - self._rate))
        for width, columns in zip(self._widths, self._columns, strict=True):
            drawn = generator.integers(0, LEVELS, (rows, width), np.uint16)[:, columns]
            yield ms.Tensor.from_numpy((drawn >= least) * kept)


def _heads(config: LlamaConfig) -> int:
    return config.num_attention_heads * config.head_dim
