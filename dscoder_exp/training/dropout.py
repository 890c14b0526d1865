"""Dropout of what LoRA's factors read: the masks of a micro step."""

import mindspore as ms

from dscoder_exp.model.llama import Llama
from dscoder_exp.schema.llama import LlamaConfig


class Dropout:
    """Masks of the four arrays that a block's matrices read; those that read one share it.

    They follow from the key alone, so that a block's backward, and a run that goes on, have the same.
    """

    def __init__(self, model: Llama, key: tuple[int, ...]) -> None:
        """
        Args:
            key: tells this micro step from all others: seed, optimizer step, micro step, replica.
        """
        config, part, topology = model.config, model.rank_config, model.mesh.topology
        widths = (config.hidden_size, _heads(config), config.hidden_size, config.intermediate_size)
        own = (config.hidden_size, _heads(part), config.hidden_size, part.intermediate_size)
        self._arrays = [
            (
                whole,
                slice(topology.tensor_rank * width, (topology.tensor_rank + 1) * width)
                if width < whole
                else slice(None),
            )
            for width, whole in zip(own, widths, strict=True)
        ]
        self._rate = model.lora.dropout if model.lora else 0.0
        self._mask, self._key = model.compiled.dropout_mask, key

    def masks(self, layer: int, rows: int) -> list[ms.Tensor]:
        """Of one block, for arrays of so many rows; none where nothing is dropped."""
        if not self._rate:
            return []
        return [
            self._mask(rows, width, columns, self._rate, (*self._key, layer, place))
            for place, (width, columns) in enumerate(self._arrays)
        ]


def _heads(config: LlamaConfig) -> int:
    return config.num_attention_heads * config.head_dim
