"""Gradients of a step: backpropagation through the model's compiled functions, and the reduction over ranks."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import mint, ops

from dscoder_exp.data.batch import Batch
from dscoder_exp.device.memory import clear, put
from dscoder_exp.model.block import SAVED
from dscoder_exp.model.llama import Llama, ModelInputs, Stream
from dscoder_exp.model.masters import MasterWeights
from dscoder_exp.parallel.collectives import CompletedHandle, Handle
from dscoder_exp.training.dropout import Dropout

_add: Any = ops.AssignAdd()


class Gradients:
    """This rank's gradients of `factor` times the summed loss, accumulated over micro steps, bucket by bucket.

    The loss is summed, not averaged: the number of counted labels is known only once all micro steps and ranks are
    summed.

    Attributes:
        factor: fp32 scalar tensor; see LossScale.
        loss: the summed loss, nats; fp32 [1].
        loss_tokens: number of labels that the loss counts.
        ends: gradients of the embedding, and of the last norm (with the head, where it isn't tied), in the tensors'
            shapes: fp32, added to in place. Empty where only LoRA's factors are trained.
        sums: bucket index -> fp32 [elements], the flattened gradients of its tensors one after another; a bucket of one
            tensor keeps that tensor's shape.
    """

    def __init__(
        self, masters: MasterWeights, factor: ms.Tensor, ends: list[list[ms.Tensor]], add: Callable[..., Any]
    ) -> None:
        """
        Args:
            ends: filled with zeros.
            add: takes 2n tensors; adds the last n to the first n in place.
        """
        self._masters, self._add = masters, add
        self.factor, self.loss, self.loss_tokens = factor, mint.zeros((1,), dtype=ms.float32), 0
        self.ends = ends
        self.sums: dict[int, ms.Tensor] = {}
        self._incomplete: dict[int, dict[int, ms.Tensor]] = {}  # bucket -> index in it -> gradient, until it has all

    def accumulate(self, group: int, gradients: Sequence[ms.Tensor]) -> list[int]:
        """Add a micro step's gradients of one group of trained tensors; returns the buckets that this completes.

        Args:
            group: index into `MasterWeights.slots`.
            gradients: one a tensor of the group, in its shape; fp32 or the model's precision.
        """
        complete: list[int] = []
        for slot, gradient in zip(self._masters.slots[group], gradients, strict=True):
            tensors = self._incomplete.setdefault(slot.bucket, {})
            tensors[slot.index] = gradient
            if len(tensors) == len(self._masters.buckets[slot.bucket].names):
                complete.append(slot.bucket)
        flat = {number: _concatenated(self._incomplete.pop(number)) for number in complete}
        if summed := [number for number in complete if number in self.sums]:
            self._add(*(self.sums[number] for number in summed), *(flat.pop(number) for number in summed))
        self.sums |= flat
        return complete


def _concatenated(tensors: dict[int, ms.Tensor]) -> ms.Tensor:
    """A bucket's gradients, by index in it, as one flat fp32 tensor; a single gradient keeps its shape."""
    first, *others = (tensors[number] for number in range(len(tensors)))
    whole = mint.cat([tensor.view(-1) for tensor in (first, *others)]) if others else first
    return whole if whole.dtype == ms.float32 else whole.astype(ms.float32)


class Backpropagation:
    """Forward and backward passes of micro batches, whose gradients are accumulated."""

    def __init__(self, model: Llama, recompute: str) -> None:
        """
        Args:
            recompute: what a block's forward pass keeps for its backward pass. "none": all that it needs; "selective":
                the block's input and the results of matrix products; "full": the block's input alone.
        """
        self._model, compiled = model, model.compiled
        self._forward, self._backward = compiled.training_forward[recompute], compiled.backward[recompute]
        self._saved = SAVED[recompute]
        self._add = compiled.compile(_add_pairs, "gradient sum")
        self._factor: tuple[float, ms.Tensor] = (1.0, put(np.array(1.0, np.float32)))
        # Allocated once for all steps, since a compiled function keeps the arguments of its last call alive.
        self._ends = [_zeros_of(model.masters, end) for end in (0, -1)] if model.lora is None else []

    def start(self, factor: float = 1.0) -> Gradients:
        """Empty gradients for a new step, of the summed loss times `factor`. Those of the step before are cleared."""
        if factor != self._factor[0]:
            self._factor = factor, put(np.array(factor, np.float32))
        for tensor in chain(*self._ends):
            clear(tensor)
        return Gradients(self._model.masters, self._factor[1], self._ends, self._add)

    def add(
        self,
        total: Gradients,
        batch: Batch,
        key: tuple[int, ...] = (),
        on_bucket: Callable[[int], None] | None = None,
    ) -> None:
        """Add the gradients of a micro batch's summed loss, over this rank's positions, to `total`.

        Args:
            batch: int32 [B, T] arrays; alike on the ranks of one data rank.
            key: identifies the micro step to Dropout.
            on_bucket: given with the last micro batch only; called with each bucket's index once its sum is complete.
        """
        model, compiled = self._model, self._model.compiled

        def accumulate(group: int, gradients: Sequence[ms.Tensor]) -> None:
            for number in total.accumulate(group, gradients):
                if on_bucket is not None:
                    on_bucket(number)

        inputs = model.inputs(batch.ids, batch.positions, batch.documents, batch.labels)
        stream, dropout = model.embed(inputs), Dropout(model, key)
        block_inputs, saved, x = self._forward_pass(inputs, stream, dropout)
        dx = mint.zeros(x.shape, dtype=x.dtype)
        of_embedding, of_head = total.ends or ([], [])
        added_to = [*of_head, *of_embedding] if model.config.tie_word_embeddings else of_head
        for c in inputs.chunks:
            weights = model.norm, model.head
            compiled.loss_backward(x, c.rows, c.labels, c.counts, total.factor, *weights, total.loss, dx, *added_to)
        dx = compiled.own_rows(dx)
        first_block = 1 if total.ends else 0  # the embedding's group comes before the blocks'
        if total.ends and on_bucket is not None:
            accumulate(-1, of_head)
        for layer in reversed(range(model.num_blocks)):
            tensors = [*model.block(layer), *dropout.masks(layer, inputs.ids.size)]
            shared = stream.cos, stream.sin, *inputs.mask
            dx, *gradients = self._backward(dx, block_inputs.pop(), *shared, *tensors, *saved.pop())
            accumulate(first_block + layer, gradients)
        if total.ends:
            compiled.embed_backward(dx, inputs.ids, *of_embedding)
            if on_bucket is not None:
                accumulate(0, of_embedding)
        total.loss_tokens += batch.loss_tokens

    def _forward_pass(
        self, inputs: ModelInputs, stream: Stream, dropout: Dropout
    ) -> tuple[list[ms.Tensor], list[tuple[ms.Tensor, ...]], ms.Tensor]:
        """(each block's input, the tensors each block saved, the last block's output [N, H] on every tensor rank).

        With parallel.sequence a block's input is this tensor rank's rows [N / t, H], else [N, H].
        """
        model, x = self._model, stream.x
        block_inputs: list[ms.Tensor] = []
        saved: list[tuple[ms.Tensor, ...]] = []
        for layer in range(model.num_blocks):
            block_inputs.append(x)
            tensors = [*model.block(layer), *dropout.masks(layer, inputs.ids.size)]
            x, *kept = self._forward(x, stream.cos, stream.sin, *inputs.mask, *tensors)
            saved.append(tuple(kept[: self._saved]))
        return block_inputs, saved, model.compiled.all_rows(x)


def _zeros_of(masters: MasterWeights, group: int) -> list[ms.Tensor]:
    """fp32 zeros in the shapes of a group's tensors."""
    shapes = [masters.buckets[slot.bucket].shapes[slot.index] for slot in masters.slots[group]]
    return [mint.zeros(shape, dtype=ms.float32) for shape in shapes]


def _add_pairs(*tensors):
    """Add the last half of the tensors to the first half, in place. MindSpore would copy an input that is returned."""
    half = len(tensors) // 2
    for i in range(half):
        _add(tensors[i], tensors[half + i])
    return ops.zeros((1,), ms.float32)


class Reduction:
    """Sums gradients over ranks, bucket by bucket, while the backward pass goes on.

    Over the replica group by reduce-scatter, then over the tensor ranks that each have a part of the same gradient.
    """

    def __init__(self, model: Llama) -> None:
        self._buckets, self._replicas = model.masters.buckets, model.mesh.replica_group
        self._sums_of_partials = {
            count: _sum_of_partials(model, count)
            for count in sorted({bucket.partial for bucket in self._buckets} - {1})
        }
        self._last_started: Handle = CompletedHandle()
        self._slices: dict[int, ms.Tensor] = {}

    def start(self, number: int, gradient: ms.Tensor) -> None:
        """Start the reduce-scatter of bucket `number` over the replica group.

        The one started before has had a block's backward pass to finish. Waiting for it here keeps at most two buckets
        in transfer.

        Args:
            gradient: this rank's, as in `Gradients.sums`.
        """
        ranks, before = self._replicas.size, self._last_started
        if ranks > 1:
            gradient = _padded(gradient, self._buckets[number].length(ranks) * ranks)
        self._slices[number], self._last_started = self._replicas.start_reduce_scatter(gradient)
        before.wait()

    def finish(self) -> list[ms.Tensor]:
        """Wait for all buckets; returns this rank's slice of each one's sum over ranks, fp32 [Bucket.length(replicas)].

        With one replica a slice is the whole bucket, in the shape that `Gradients.sums` has.
        """
        self._last_started.wait()
        self._last_started, slices = CompletedHandle(), self._slices
        self._slices = {}
        return [
            slices[number] if bucket.partial == 1 else self._sums_of_partials[bucket.partial](slices[number])
            for number, bucket in enumerate(self._buckets)
        ]


def _sum_of_partials(model: Llama, count: int) -> Any:
    """The compiled all-reduce over the `count` tensor ranks that hold the same weights."""
    all_reduce = model.mesh.copies_group(count).all_reduce

    def summed(gradient):
        return all_reduce(gradient)

    return model.compiled.compile(summed, "gradients of copies")


def _padded(gradient: ms.Tensor, length: int) -> ms.Tensor:
    """The gradient flattened and padded with zeros to `length` elements."""
    flat = gradient.view(-1)
    missing = length - flat.shape[0]
    return mint.cat([flat, mint.zeros((missing,), dtype=ms.float32)]) if missing else flat
