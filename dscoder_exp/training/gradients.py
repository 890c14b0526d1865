"""Backpropagation over the model's units."""

from dataclasses import dataclass
from typing import Any

import mindspore as ms
from mindspore import mint, ops

from dscoder_exp.data.sequences import Batch
from dscoder_exp.model.block import WEIGHTS
from dscoder_exp.model.llama import Inputs, Llama, chunks_of

_add: Any = ops.AssignAdd()


@dataclass
class Gradients:
    """Of the summed loss, in the model's groups; blocks that no batch has reached yet are empty.

    The sum and not its mean: how many labels count is known only when all micro steps and ranks are added up.
    """

    groups: list[list[ms.Tensor]]
    loss: float = 0.0  # summed, nats
    loss_tokens: int = 0


class Backpropagation:
    """Adds up gradients, micro batch by micro batch."""

    def __init__(self, model: Llama, recompute: str) -> None:
        """
        Args:
            recompute: "none" keeps what a block's backward needs; "full" keeps its input alone.
        """
        self._model = model
        self._recompute = recompute == "full"
        self._add_group = model.units.unit(_add_pairs, "gradient sum")

    def start(self) -> Gradients:
        """Zeros for the two ends of the model, which are added to in place; a block's gradients come whole."""
        ends = (self._model.groups[0], self._model.groups[-1])
        first, last = ([mint.zeros(tensor.shape, dtype=ms.float32) for tensor in group] for group in ends)
        return Gradients([first, *([] for _ in self._model.blocks), last])

    def add(self, total: Gradients, batch: Batch) -> None:
        """Add the gradients of the batch's summed loss to `total`."""
        model, units = self._model, self._model.units
        inputs = model.inputs(batch.ids, batch.positions, batch.documents)
        entering, saved, x = self._forward(inputs)
        dx = mint.zeros(x.shape, dtype=x.dtype)
        dembedding, dnorm = total.groups[0][0], total.groups[-1][0]
        dtable = dembedding if model.config.tie_word_embeddings else total.groups[-1][1]
        losses = [
            units.loss_backward(x, c.rows, c.labels, c.counts, model.norm, model.head, dx, dnorm, dtable)
            for c in chunks_of(batch.labels)
        ]
        for layer in reversed(range(len(model.blocks))):
            weights, x = model.blocks[layer], entering.pop()
            backward = units.recomputing_backward if self._recompute else units.backward
            dx, *gradients = backward(dx, x, inputs.cos, inputs.sin, inputs.mask, *weights, *saved.pop())
            if total.groups[layer + 1]:
                self._add_group(*total.groups[layer + 1], *gradients)
            else:
                total.groups[layer + 1] = gradients
        units.embed_backward(dx, inputs.ids, dembedding)
        total.loss += float(sum(loss.asnumpy() for loss in losses))
        total.loss_tokens += batch.loss_tokens

    def _forward(self, inputs: Inputs) -> tuple[list[ms.Tensor], list[tuple[ms.Tensor, ...]], ms.Tensor]:
        """What enters each block, what each saved, and what leaves the last one."""
        model = self._model
        entering: list[ms.Tensor] = []
        saved: list[tuple[ms.Tensor, ...]] = []
        x = model.units.embed(inputs.ids, model.embedding)
        for weights in model.blocks:
            entering.append(x)
            x, *kept = model.units.forward(x, inputs.cos, inputs.sin, inputs.mask, *weights)
            saved.append(() if self._recompute else tuple(kept))
        return entering, saved, x


def _add_pairs(*tensors):
    """Adds the block's second nine tensors to its first nine, in place."""
    for i in range(WEIGHTS):
        _add(tensors[i], tensors[WEIGHTS + i])
    return tensors[0]
