"""Backpropagation over the model's units."""

from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import mint, ops

from dscoder_exp.data.sequences import Batch
from dscoder_exp.model.block import SAVED
from dscoder_exp.model.llama import Inputs, Llama, chunks_of
from dscoder_exp.training.dropout import Dropout

_add: Any = ops.AssignAdd()


@dataclass
class Gradients:
    """Of the summed loss, times a factor. The sum and not its mean: how many labels count is known only when all micro
    steps and ranks are added up.

    Attributes:
        factor: fp32 scalar.
        first, last: of the model's two ends; empty where they are frozen.
        blocks: one group a block, empty until a batch has reached it.
        loss: summed, nats.
    """

    factor: ms.Tensor
    first: list[ms.Tensor]
    blocks: list[list[ms.Tensor]]
    last: list[ms.Tensor]
    loss: float = 0.0
    loss_tokens: int = 0

    @property
    def groups(self) -> list[list[ms.Tensor]]:
        """As the model's trained groups."""
        return [group for group in (self.first, *self.blocks, self.last) if group]


class Backpropagation:
    """Adds up gradients, micro batch by micro batch."""

    def __init__(self, model: Llama, recompute: str) -> None:
        """
        Args:
            recompute: "none" keeps what a block's backward needs, "selective" what its matrix products gave, "full"
                its input alone.
        """
        self._model = model
        self._backward, self._saved = model.units.backward[recompute], SAVED[recompute]
        self._add_group = model.units.unit(_add_pairs, "gradient sum")

    def start(self, factor: float = 1.0) -> Gradients:
        """Zeros for the two ends of the model, which are added to in place; a block's gradients come whole."""
        model = self._model
        ends = ([], []) if model.lora else (model.groups[0], model.groups[-1])
        first, last = ([mint.zeros(tensor.shape, dtype=ms.float32) for tensor in group] for group in ends)
        return Gradients(ms.Tensor(np.float32(factor)), first, [[] for _ in model.blocks], last)

    def add(self, total: Gradients, batch: Batch, key: tuple[int, ...] = ()) -> None:
        """Add the gradients of the batch's summed loss to `total`.

        Args:
            key: what the dropout of LoRA's inputs follows from; see Dropout.
        """
        model, units = self._model, self._model.units
        inputs = model.inputs(batch.ids, batch.positions, batch.documents)
        dropout = Dropout(model, key)
        entering, saved, x = self._forward(inputs, dropout)
        dx = mint.zeros(x.shape, dtype=x.dtype)
        of_head = [*total.last, *total.first] if model.config.tie_word_embeddings else total.last
        losses = [
            units.loss_backward(x, c.rows, c.labels, c.counts, total.factor, model.norm, model.head, dx, *of_head)
            for c in chunks_of(batch.labels)
        ]
        for layer in reversed(range(len(model.blocks))):
            x = entering.pop()
            tensors = [*model.blocks[layer], *dropout.masks(layer, x.shape[0])]
            dx, *gradients = self._backward(dx, x, inputs.cos, inputs.sin, inputs.mask, *tensors, *saved.pop())
            if total.blocks[layer]:
                self._add_group(*total.blocks[layer], *gradients)
            else:
                total.blocks[layer] = gradients
        if total.first:
            units.embed_backward(dx, inputs.ids, *total.first)
        total.loss += float(sum(loss.asnumpy() for loss in losses))
        total.loss_tokens += batch.loss_tokens

    def _forward(
        self, inputs: Inputs, dropout: Dropout
    ) -> tuple[list[ms.Tensor], list[tuple[ms.Tensor, ...]], ms.Tensor]:
        """What enters each block, what each saved, and what leaves the last one."""
        model = self._model
        entering: list[ms.Tensor] = []
        saved: list[tuple[ms.Tensor, ...]] = []
        x = model.units.embed(inputs.ids, model.embedding)
        for layer, block in enumerate(model.blocks):
            entering.append(x)
            tensors = [*block, *dropout.masks(layer, x.shape[0])]
            x, *kept = model.units.training_forward(x, inputs.cos, inputs.sin, inputs.mask, *tensors)
            saved.append(tuple(kept[: self._saved]))
        return entering, saved, x


def _add_pairs(*tensors):
    """Adds the second half of the tensors to the first, in place."""
    half = len(tensors) // 2
    for i in range(half):
        _add(tensors[i], tensors[half + i])
    return tensors[0]
