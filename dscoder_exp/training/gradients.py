"""Backpropagation over the model's units."""

from collections.abc import Callable
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
        groups: as the model's trained groups; a block's is empty until a batch has reached it.
        ends: whether the first and the last are those of the model's two ends, or all are blocks'.
        loss: summed, nats.
    """

    factor: ms.Tensor
    groups: list[list[ms.Tensor]]
    ends: bool
    loss: float = 0.0
    loss_tokens: int = 0

    def take(self, number: int) -> list[ms.Tensor]:
        """One of the model's trained groups, which is held here no longer."""
        taken, self.groups[number] = self.groups[number], []
        return taken


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
        groups: list[list[ms.Tensor]] = [[] for _ in model.trained]
        for end in (0, -1) if model.lora is None else ():
            groups[end] = [mint.zeros(tensor.shape, dtype=ms.float32) for tensor in model.trained[end]]
        return Gradients(ms.Tensor(np.float32(factor)), groups, ends=model.lora is None)

    def add(
        self,
        total: Gradients,
        batch: Batch,
        key: tuple[int, ...] = (),
        on_group: Callable[[int], None] = lambda number: None,
    ) -> None:
        """Add the gradients of the batch's summed loss to `total`; where ranks share it, of this rank's part.

        Args:
            key: what the dropout of LoRA's inputs follows from; see Dropout.
            on_group: called with the number of each of the model's trained groups, once all of it is added.
        """
        model, units = self._model, self._model.units
        inputs = model.inputs(batch.ids, batch.positions, batch.documents)
        dropout = Dropout(model, key)
        entering, saved, x = self._forward(inputs, dropout)
        dx, before = mint.zeros(x.shape, dtype=x.dtype), int(total.ends)
        first, last = (total.groups[0], total.groups[-1]) if total.ends else ([], [])
        of_head = [*last, *first] if model.config.tie_word_embeddings else last
        losses = [
            units.loss_backward(x, c.rows, c.labels, c.counts, total.factor, model.norm, model.head, dx, *of_head)
            for c in chunks_of(model.own_positions(batch.labels))
        ]
        dx = units.own_rows(dx)
        if total.ends:
            on_group(before + len(model.blocks))
        for layer in reversed(range(len(model.blocks))):
            x = entering.pop()
            tensors = [*model.blocks[layer], *dropout.masks(layer, len(inputs.ids))]
            dx, *gradients = self._backward(dx, x, inputs.cos, inputs.sin, inputs.mask, *tensors, *saved.pop())
            number = before + layer
            if total.groups[number]:
                self._add_group(*total.groups[number], *gradients)
            else:
                total.groups[number] = gradients
            on_group(number)
        if total.ends:
            units.embed_backward(dx, inputs.ids, *first)
            on_group(0)
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
            tensors = [*block, *dropout.masks(layer, len(inputs.ids))]
            x, *kept = model.units.training_forward(x, inputs.cos, inputs.sin, inputs.mask, *tensors)
            saved.append(tuple(kept[: self._saved]))
        return entering, saved, model.units.all_rows(x)


def _add_pairs(*tensors):
    """Adds the second half of the tensors to the first, in place."""
    half = len(tensors) // 2
    for i in range(half):
        _add(tensors[i], tensors[half + i])
    return tensors[0]
