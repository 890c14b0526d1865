"""Gradients: backpropagation over the model's compiled functions, and their sums over ranks meanwhile."""

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
from dscoder_exp.parallel.collectives import Done, Handle
from dscoder_exp.training.dropout import Dropout

_add: Any = ops.AssignAdd()


class Gradients:
    """Gradients of a step's summed loss times `factor`, in the model's buckets. Of the sum, not of the mean: how many
    labels count is known only when all micro steps and ranks are added up.

    Attributes:
        factor: fp32 scalar.
        loss: the summed loss, nats; fp32 [1].
        loss_tokens: number of labels that it counts.
        ends: for the embedding, and for the last norm and head, fp32 arrays that are added to in place; empty where
            these aren't trained.
        sums: bucket index -> fp32 [length], its tensors' gradients end to end, or one tensor's in its own shape.
    """

    def __init__(
        self, masters: MasterWeights, factor: ms.Tensor, ends: list[list[ms.Tensor]], add: Callable[..., Any]
    ) -> None:
        """
        Args:
            ends: of zeros.
            add: takes 2n arrays, and adds the second n of them to the first n, in place.
        """
        self._masters, self._add = masters, add
        self.factor, self.loss, self.loss_tokens = factor, mint.zeros((1,), dtype=ms.float32), 0
        self.ends = ends
        self.sums: dict[int, ms.Tensor] = {}
        self._waiting: dict[int, dict[int, ms.Tensor]] = {}  # of buckets, some of whose tensors are still to come

    def take(self, group: int, gradients: Sequence[ms.Tensor]) -> list[int]:
        """Add a micro step's gradients of one of the model's trained groups; the buckets that are whole with them."""
        whole: list[int] = []
        for slot, gradient in zip(self._masters.slots[group], gradients, strict=True):
            waiting = self._waiting.setdefault(slot.bucket, {})
            waiting[slot.index] = gradient
            if len(waiting) == len(self._masters.buckets[slot.bucket].names):
                whole.append(slot.bucket)
        flat = {number: _end_to_end(self._waiting.pop(number)) for number in whole}
        if again := [number for number in whole if number in self.sums]:
            self._add(*(self.sums[number] for number in again), *(flat.pop(number) for number in again))
        self.sums |= flat
        return whole


def _end_to_end(tensors: dict[int, ms.Tensor]) -> ms.Tensor:
    """A bucket's gradients, by index, as one fp32 array [length]; a single one keeps its shape."""
    first, *others = (tensors[number] for number in range(len(tensors)))
    whole = mint.cat([tensor.view(-1) for tensor in (first, *others)]) if others else first
    return whole if whole.dtype == ms.float32 else whole.astype(ms.float32)


class Backpropagation:
    """Forward and backward passes, whose gradients are added up micro batch by micro batch."""

    def __init__(self, model: Llama, recompute: str) -> None:
        """
        Args:
            recompute: what is kept of a block between forward and backward. "none": all that the backward needs;
                "selective": its input and the results of matrix products; "full": its input.
        """
        self._model, compiled = model, model.compiled
        self._forward, self._backward = compiled.training_forward[recompute], compiled.backward[recompute]
        self._saved = SAVED[recompute]
        self._add = compiled.compile(_add_pairs, "gradient sum")
        self._factor: tuple[float, ms.Tensor] = (1.0, put(np.array(1.0, np.float32)))
        # The same arrays in each step: a compiled function holds on to what it was called with last.
        self._ends = [_zeros_of(model.masters, end) for end in (0, -1)] if model.lora is None else []

    def start(self, factor: float = 1.0) -> Gradients:
        """Gradients of nothing yet: zeros for the two ends of the model, which are added to in place."""
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
            key: seed of the dropout of LoRA's inputs; see Dropout.
            on_bucket: given with the last micro batch; called with a bucket's index once its sum is complete.
        """
        model, compiled = self._model, self._model.compiled

        def take(group: int, gradients: Sequence[ms.Tensor]) -> None:
            for number in total.take(group, gradients):
                if on_bucket is not None:
                    on_bucket(number)

        inputs = model.inputs(batch.ids, batch.positions, batch.documents, batch.labels)
        stream, dropout = model.embed(inputs), Dropout(model, key)
        entering, saved, x = self._pass(inputs, stream, dropout)
        dx = mint.zeros(x.shape, dtype=x.dtype)
        first, last = total.ends or ([], [])
        of_head = [*last, *first] if model.config.tie_word_embeddings else last
        for c in inputs.chunks:
            into = total.factor, model.norm, model.head, total.loss, dx
            compiled.loss_backward(x, c.rows, c.labels, c.counts, *into, *of_head)
        dx, before = compiled.own_rows(dx), int(bool(total.ends))
        if total.ends and on_bucket is not None:
            take(-1, last)
        for layer in reversed(range(model.num_blocks)):
            tensors = [*model.block(layer), *dropout.masks(layer, inputs.ids.size)]
            beside = stream.cos, stream.sin, *inputs.mask
            dx, *gradients = self._backward(dx, entering.pop(), *beside, *tensors, *saved.pop())
            take(before + layer, gradients)
        if total.ends:
            compiled.embed_backward(dx, inputs.ids, *first)
            if on_bucket is not None:
                take(0, first)
        total.loss_tokens += batch.loss_tokens

    def _pass(
        self, inputs: ModelInputs, stream: Stream, dropout: Dropout
    ) -> tuple[list[ms.Tensor], list[tuple[ms.Tensor, ...]], ms.Tensor]:
        """(each block's input [N, H], what each block saved, the last block's output [N, H])."""
        model, x = self._model, stream.x
        entering: list[ms.Tensor] = []
        saved: list[tuple[ms.Tensor, ...]] = []
        for layer in range(model.num_blocks):
            entering.append(x)
            tensors = [*model.block(layer), *dropout.masks(layer, inputs.ids.size)]
            x, *kept = self._forward(x, stream.cos, stream.sin, *inputs.mask, *tensors)
            saved.append(tuple(kept[: self._saved]))
        return entering, saved, model.compiled.all_rows(x)


def _zeros_of(masters: MasterWeights, group: int) -> list[ms.Tensor]:
    """fp32 zeros in the shapes of a group's tensors."""
    shapes = [masters.buckets[slot.bucket].shapes[slot.index] for slot in masters.slots[group]]
    return [mint.zeros(shape, dtype=ms.float32) for shape in shapes]


def _add_pairs(*tensors):
    """Adds the second half of the tensors to the first, in place."""
    half = len(tensors) // 2
    for i in range(half):
        _add(tensors[i], tensors[half + i])
    return ops.zeros((1,), ms.float32)


class Reduction:
    """Sums gradients over ranks, bucket by bucket, while the backward pass goes on."""

    def __init__(self, model: Llama) -> None:
        self._buckets, self._replicas = model.masters.buckets, model.mesh.replica_group
        self._copies = {
            count: _summing(model, count) for count in sorted({bucket.partial for bucket in self._buckets} - {1})
        }
        self._begun: Handle = Done()
        self._own: dict[int, ms.Tensor] = {}

    def start(self, number: int, gradient: ms.Tensor) -> None:
        """Begin to sum a bucket's gradient [length] over replicas.

        The sum that was begun before has had the time of a block's backward; it is waited for here, so that no more
        than two buckets are held while they are sent.
        """
        ranks, before = self._replicas.size, self._begun
        if ranks > 1:
            gradient = _filled(gradient, self._buckets[number].length(ranks) * ranks)
        self._own[number], self._begun = self._replicas.start_reduce_scatter(gradient)
        before.wait()

    def finish(self) -> list[ms.Tensor]:
        """This rank's slice of each bucket's sum, fp32 [length / replicas]; tensor ranks' partial sums are added up."""
        self._begun.wait()
        self._begun, own = Done(), self._own
        self._own = {}
        return [
            own[number] if bucket.partial == 1 else self._copies[bucket.partial](own[number])
            for number, bucket in enumerate(self._buckets)
        ]


def _summing(model: Llama, copies: int) -> Any:
    """The compiled sum over the tensor ranks that hold the same values."""
    all_reduce = model.mesh.copies_group(copies).all_reduce

    def summed(gradient):
        return all_reduce(gradient)

    return model.compiled.compile(summed, "gradients of copies")


def _filled(gradient: ms.Tensor, length: int) -> ms.Tensor:
    """The gradient flat, padded with zeros to `length`."""
    flat = gradient.view(-1)
    missing = length - flat.shape[0]
    return mint.cat([flat, mint.zeros((missing,), dtype=ms.float32)]) if missing else flat
