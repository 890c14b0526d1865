"""The fp32 values that training adds to, and what the model computes with in their stead.

ZeRO-1 (Rajbhandari et al. 2019, arXiv:1910.02054): of each bucket of trained tensors a replica owns a slice, which is
fp32. The model computes with all of the bucket, gathered in the model's precision (as in DeepSpeed's ZeRO), so that in
bf16 it takes 2 bytes a parameter. A rank that has no other replica computes with its fp32 values themselves.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import mint
from numpy.typing import NDArray

from dscoder_exp.device.memory import fetch, put, views_of
from dscoder_exp.parallel.buckets import Bucket
from dscoder_exp.parallel.collectives import Handle, Mesh
from dscoder_exp.parallel.pieces import Owned, Piece
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.layout import held
from dscoder_exp.weights.names import NORM

_NOTHING = np.empty(0, np.float32)


class Place(NamedTuple):
    """Where a tensor lies: in which bucket, as which of its tensors."""

    bucket: int
    number: int


class Masters:
    """A model's buckets, their slices on the device.

    Attributes:
        buckets: in the order in which a forward pass needs them.
        slices: this rank's of each bucket, fp32 and flat.
        counted: of each, whether this rank is the one, of those that hold the same, that counts it.
        places: of each trained tensor, group by group.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[str]],
        shapes: Mapping[str, tuple[int, ...]],
        config: LlamaConfig,
        mesh: Mesh,
        *,
        factors: bool,
        device: str,
        dtype: ms.Type,
    ) -> None:
        """
        Args:
            groups: names of what is trained, as the model groups it.
            shapes: of all of it, whole.
            factors: whether they are LoRA's, which are small, and lie in one bucket.
            dtype: what is gathered from several replicas.
        """
        self._replicas = mesh.replicas
        place = mesh.place
        merged = device == "ascend" or self._replicas.size > 1  # else each tensor by itself: nothing has to be copied
        found: dict[tuple[int | str | None, bool, int, int], dict[str, tuple[int, ...]]] = {}
        for number, group in enumerate(groups):
            for name in group:
                part = held(name, shapes[name], config, place.tensor_rank, place.tensor)
                partial = part.copies if _is_partial(name, mesh) else 1
                matrix = len(shapes[name]) > 1
                together = factors or (not matrix and name != NORM)  # what is small goes over all blocks
                where = name if not merged and partial == 1 else None if together else number
                found.setdefault((where, matrix, part.copies, partial), {})[name] = part.shape(shapes[name])
        self.buckets = [
            Bucket(tuple(tensors), tuple(tensors.values()), matrix, copies, partial)
            for (_, matrix, copies, partial), tensors in found.items()
        ]
        self._of = {
            name: Place(number, i) for number, bucket in enumerate(self.buckets) for i, name in enumerate(bucket.names)
        }
        self.places = [[self._of[name] for name in group] for group in groups]
        self.counted = [place.tensor_rank % bucket.copies == 0 for bucket in self.buckets]
        self._dtype = dtype
        self._read: list[dict[int, NDArray[np.float32]]] = [{} for _ in self.buckets]
        self._under_way: dict[int, Handle] = {}
        self._slices: dict[int, ms.Tensor] = {}
        self._flat: dict[int, ms.Tensor] = {}

    def take(self, name: str, values: NDArray[np.float32]) -> None:
        """One tensor's values, as this tensor rank holds them: its own pieces of them stay, and those of a whole
        bucket go to the device. On the CPU a tensor that is a bucket by itself is the array's own memory.
        """
        number, i = self._of[name]
        read, bucket = self._read[number], self.buckets[number]
        owned = [piece for piece in self._pieces(bucket) if piece.number == i]
        parts = [values.reshape(-1)[piece.first : piece.last] for piece in owned]
        read[i] = parts[0] if parts and parts[0].size == values.size else np.concatenate([_NOTHING, *parts])
        if len(read) == len(bucket.names):
            self._place(number, [read.pop(i) for i in range(len(bucket.names))])

    def _place(self, number: int, parts: list[NDArray[np.float32]]) -> None:
        replicas = self._replicas.size
        length = self.buckets[number].length(replicas)
        missing = length - sum(part.size for part in parts)
        values = (
            parts[0] if len(parts) == 1 and not missing else np.concatenate([*parts, np.zeros(missing, np.float32)])
        )
        self._slices[number] = put(values)
        self._flat[number] = self._slices[number]
        if replicas > 1:
            self._flat[number] = mint.zeros((length * replicas,), dtype=self._dtype)
            self.gather(number)
            self._wait(number)

    @property
    def slices(self) -> list[ms.Tensor]:
        return [self._slices[number] for number in range(len(self.buckets))]

    def weights(self) -> dict[str, ms.Tensor]:
        """What the model computes with, by name; `gather` writes into it, and it is there once `ready` was called."""
        return {
            name: tensor
            for number, bucket in enumerate(self.buckets)
            for name, tensor in zip(bucket.names, views_of(self._flat[number], bucket.shapes), strict=True)
        }

    def gather(self, number: int) -> None:
        """Begin to write all replicas' slices of a bucket, as they are now, into what the model computes with."""
        if self._replicas.size > 1:
            self._wait(number)  # a handle that nobody waits for is an error to MindSpore
            own = self._slices[number].astype(self._dtype)
            self._under_way[number] = self._replicas.start_all_gather(self._flat[number], own)

    def ready(self, group: int) -> None:
        """Of one group of tensors: what is called next finds them gathered."""
        for place in self.places[group] if self._under_way else ():
            self._wait(place.bucket)

    def _wait(self, number: int) -> None:
        if (handle := self._under_way.pop(number, None)) is not None:
            handle.wait()

    def settle(self) -> None:
        """What is called next finds all of them gathered."""
        for group in range(len(self.places)):
            self.ready(group)

    def owned(self, number: int) -> list[Owned]:
        """What this rank's slice of a bucket consists of, in order; behind it, zeros fill it up."""
        bucket = self.buckets[number]
        return [Owned(bucket.names[piece.number], piece.first, piece.last) for piece in self._pieces(bucket)]

    def cut(self, number: int, values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The parts that `owned` names of an array laid out as this rank's slice of a bucket, of any shape; views."""
        ends = np.cumsum([owned.last - owned.first for owned in self.owned(number)])
        return np.split(values.reshape(-1), ends)[: len(ends)]

    def state(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """(name, fp32 array) of this tensor rank's part of all that is trained; all replicas take part, and the first
        one gets it.
        """
        self.settle()
        for number, bucket in enumerate(self.buckets):
            whole, replicas = self._slices[number], self._replicas
            if replicas.size > 1:
                whole = mint.zeros((bucket.length(replicas.size) * replicas.size,), dtype=ms.float32)
                replicas.start_all_gather(whole, self._slices[number]).wait()
            if replicas.place == 0:
                *parts, _ = np.split(fetch(whole).reshape(-1), np.cumsum(bucket.sizes))
                yield from zip(bucket.names, map(np.reshape, parts, bucket.shapes), strict=True)

    def _pieces(self, bucket: Bucket) -> list[Piece]:
        return bucket.pieces(self._replicas.place, self._replicas.size)


def _is_partial(name: str, mesh: Mesh) -> bool:
    """Whether ranks that hold the same of a tensor each have a part of its gradient, and not all of it."""
    if name == NORM:
        return False  # its rows lie on all
    return mesh.place.sequence or not name.endswith("layernorm.weight")
