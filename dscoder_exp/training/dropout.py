"""Dropout masks for the inputs of LoRA's factors."""

import mindspore as ms

from dscoder_exp.model.llama import Llama
from dscoder_exp.schema.llama import LlamaConfig


class Dropout:
    """Dropout masks of one micro step: four a block, one for each array that its matrices read.

    The four are the inputs of q, k and v, of o, of gate and up, and of down. A mask follows from the key, the layer and
    its place among the four, so recomputation in the backward pass and a resumed run use the same masks.
    """

    def __init__(self, model: Llama, key: tuple[int, ...]) -> None:
        """
        Args:
            key: (seed, optimizer step, micro step, replica), different for each micro step.
        """
        config, part, topology = model.config, model.rank_config, model.mesh.topology
        widths = (config.hidden_size, _heads_size(config), config.hidden_size, config.intermediate_size)
        rank_widths = (config.hidden_size, _heads_size(part), config.hidden_size, part.intermediate_size)
        self._inputs = [  # (width of the whole array, this tensor rank's columns of it)
            (
                width,
                slice(topology.tensor_rank * own, (topology.tensor_rank + 1) * own) if own < width else slice(None),
            )
            for own, width in zip(rank_widths, widths, strict=True)
        ]
        self._rate = model.lora.dropout if model.lora else 0.0
        self._mask, self._key = model.compiled.dropout_mask, key

    def masks(self, layer: int, rows: int) -> list[ms.Tensor]:
        """A block's four masks for inputs of `rows` rows; an empty list where the dropout rate is 0.

        On the CPU fp32 [rows, columns of this rank] of 0 and 1 / (1 - rate); on Ascend the operator's bit mask.
        """
        if not self._rate:
            return []
        return [
            self._mask(rows, width, columns, self._rate, (*self._key, layer, place))
            for place, (width, columns) in enumerate(self._inputs)
        ]


def _heads_size(config: LlamaConfig) -> int:
    return config.num_attention_heads * config.head_dim
