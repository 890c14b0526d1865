"""Gradients summed over ranks: replicas each get their slice of a bucket's sum, while the backward pass goes on."""

from typing import Any

import mindspore as ms
from mindspore import mint

from dscoder_exp.model.llama import Llama
from dscoder_exp.parallel.collectives import Done, Handle


class Reduction:
    """Sums the buckets of one step after another."""

    def __init__(self, model: Llama) -> None:
        self._buckets, self._replicas = model.masters.buckets, model.mesh.replica_group
        self._copies = {
            count: _summing(model, count) for count in sorted({bucket.partial for bucket in self._buckets} - {1})
        }
        self._begun: Handle = Done()
        self._own: dict[int, ms.Tensor] = {}

    def start(self, number: int, gradient: ms.Tensor) -> None:
        """Begin to sum a bucket's gradient, once this rank's part of it is whole.

        What was begun before has had the time of a block's backward; then it is waited for, so that no more than two
        buckets are held while they are sent.
        """
        ranks, before = self._replicas.size, self._begun
        if ranks > 1:
            gradient = _filled(gradient, self._buckets[number].length(ranks) * ranks)
        self._own[number], self._begun = self._replicas.start_reduce_scatter(gradient)
        before.wait()

    def finish(self) -> list[ms.Tensor]:
        """This rank's slices of the sums, bucket by bucket; where ranks that hold the same each have a part, of all."""
        self._begun.wait()
        self._begun, own = Done(), self._own
        self._own = {}
        return [
            own[number] if bucket.partial == 1 else self._copies[bucket.partial](own[number])
            for number, bucket in enumerate(self._buckets)
        ]


def _summing(model: Llama, copies: int) -> Any:
    """The sum over the tensor ranks that hold the same, as a unit."""
    all_reduce = model.mesh.copies_group(copies).all_reduce

    def summed(gradient):
        return all_reduce(gradient)

    return model.compiled.unit(summed, "gradients of copies")


def _filled(gradient: ms.Tensor, length: int) -> ms.Tensor:
    """The gradient in one row, filled up with zeros."""
    flat = gradient.view(-1)
    missing = length - flat.shape[0]
    return mint.cat([flat, mint.zeros((missing,), dtype=ms.float32)]) if missing else flat
