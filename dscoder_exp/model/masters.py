"""The fp32 master weights that training adds to, and the weights that the model computes with.

ZeRO-1 (Rajbhandari et al. 2019, arXiv:1910.02054): of each bucket of trained tensors a replica owns a slice, which is
fp32. The model computes with the whole bucket, gathered in the model's precision (as in DeepSpeed's ZeRO), so that bf16
weights take 2 bytes a parameter. A rank without other replicas computes with its fp32 values themselves.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import mint
from numpy.typing import NDArray

from dscoder_exp.device.memory import fetch, put, views_of
from dscoder_exp.parallel.buckets import Bucket, FlatShard
from dscoder_exp.parallel.collectives import Handle, Mesh
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.names import NORM
from dscoder_exp.weights.native.layout import rank_slice

_NOTHING = np.empty(0, np.float32)


@dataclass(frozen=True)
class BucketSlot:
    """Where a tensor lies: index of its bucket, and its index among that bucket's tensors."""

    bucket: int
    index: int


class MasterWeights:
    """The buckets of what is trained, and this rank's fp32 slice of each, on the device.

    Attributes:
        buckets: in the order in which a forward pass needs them.
        counted: for each bucket, whether this rank's slice counts in the gradient's norm; of the tensor ranks that hold
            the same values, only the first one's does.
        slots: the slot of each trained tensor, group by group.
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
            groups: names of the trained tensors, as the model groups them: embedding, blocks, head.
            shapes: whole shape of each trained tensor.
            factors: whether they are LoRA's factors, which are small and share one bucket.
            dtype: of the gathered weights, where there are several replicas.
        """
        self._replicas = mesh.replica_group
        self.buckets = _buckets(groups, shapes, config, mesh, factors=factors, merged=device == "ascend")
        self._slot = {
            name: BucketSlot(number, index)
            for number, bucket in enumerate(self.buckets)
            for index, name in enumerate(bucket.names)
        }
        self.slots = [[self._slot[name] for name in group] for group in groups]
        self.counted = [mesh.topology.tensor_rank % bucket.copies == 0 for bucket in self.buckets]
        self._dtype = dtype
        self._read: list[dict[int, NDArray[np.float32]]] = [{} for _ in self.buckets]
        self._gathering: dict[int, Handle] = {}
        self._slices: dict[int, ms.Tensor] = {}
        self._flat: dict[int, ms.Tensor] = {}

    def load(self, name: str, values: NDArray[np.float32]) -> None:
        """Keep this rank's shard of a tensor; once a bucket is complete, put its slice on the device.

        On the CPU a tensor that is a bucket by itself shares the array's memory.

        Args:
            values: what this tensor rank holds of the tensor.
        """
        slot = self._slot[name]
        number, index = slot.bucket, slot.index
        read, bucket = self._read[number], self.buckets[number]
        owned = [values.reshape(-1)[shard.first : shard.last] for shard in self.shards(number) if shard.name == name]
        read[index] = owned[0] if owned and owned[0].size == values.size else np.concatenate([_NOTHING, *owned])
        if len(read) == len(bucket.names):
            self._put(number, [read.pop(index) for index in range(len(bucket.names))])

    def _put(self, number: int, parts: list[NDArray[np.float32]]) -> None:
        replicas = self._replicas.size
        length = self.buckets[number].length(replicas)
        missing = length - sum(part.size for part in parts)
        padded = [*parts, np.zeros(missing, np.float32)]
        values = parts[0] if len(parts) == 1 and not missing else np.concatenate(padded)
        self._slices[number] = put(values)
        self._flat[number] = self._slices[number]
        if replicas > 1:
            self._flat[number] = mint.zeros((length * replicas,), dtype=self._dtype)
            self.start_gather(number)
            self._wait(number)

    @property
    def slices(self) -> list[ms.Tensor]:
        """This rank's slice of each bucket: fp32 [length]."""
        return [self._slices[number] for number in range(len(self.buckets))]

    def weights(self) -> dict[str, ms.Tensor]:
        """The tensors that the model computes with, by name: views of the buckets that `start_gather` writes to."""
        return {
            name: tensor
            for number, bucket in enumerate(self.buckets)
            for name, tensor in zip(bucket.names, views_of(self._flat[number], bucket.shapes), strict=True)
        }

    def start_gather(self, number: int) -> None:
        """Begin to gather all replicas' slices of a bucket, as they are now, into the model's weights."""
        if self._replicas.size > 1:
            self._wait(number)  # a handle that nobody waits for is an error to MindSpore
            own = self._slices[number].astype(self._dtype)
            self._gathering[number] = self._replicas.start_all_gather(self._flat[number], own)

    def wait_group(self, group: int) -> None:
        """Wait for the gathers of a group's tensors. Kernels that are launched next see the new weights."""
        for slot in self.slots[group] if self._gathering else ():
            self._wait(slot.bucket)

    def _wait(self, number: int) -> None:
        if (handle := self._gathering.pop(number, None)) is not None:
            handle.wait()

    def wait_all(self) -> None:
        """`wait_group` for every group."""
        for group in range(len(self.slots)):
            self.wait_group(group)

    def shards(self, number: int) -> list[FlatShard]:
        """What this rank's slice of a bucket consists of, in order; zeros follow up to the slice's length."""
        return self.buckets[number].shards(self._replicas.rank, self._replicas.size)

    def owned(self) -> list[FlatShard]:
        """`shards` of all buckets."""
        return [shard for number in range(len(self.buckets)) for shard in self.shards(number)]

    def split(self, number: int, values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Views of an array [length] that is laid out like this rank's slice: one for each of `shards`."""
        ends = np.cumsum([shard.last - shard.first for shard in self.shards(number)])
        return np.split(values.reshape(-1), ends)[: len(ends)]

    def state(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """(name, fp32 array) of what this tensor rank holds of each trained tensor.

        All replicas have to call this; only the first one gets the arrays.
        """
        self.wait_all()
        for number, bucket in enumerate(self.buckets):
            whole, replicas = self._slices[number], self._replicas
            if replicas.size > 1:
                whole = mint.zeros((bucket.length(replicas.size) * replicas.size,), dtype=ms.float32)
                replicas.start_all_gather(whole, self._slices[number]).wait()
            if replicas.rank == 0:
                *parts, _ = np.split(fetch(whole).reshape(-1), np.cumsum(bucket.sizes))
                yield from zip(bucket.names, map(np.reshape, parts, bucket.shapes), strict=True)


def _buckets(
    groups: Sequence[Sequence[str]],
    shapes: Mapping[str, tuple[int, ...]],
    config: LlamaConfig,
    mesh: Mesh,
    *,
    factors: bool,
    merged: bool,
) -> list[Bucket]:
    """A group's matrices make a bucket; its small tensors share one with those of all groups.

    Args:
        merged: with one replica, too; else each tensor is a bucket by itself there, and nothing has to be copied.
    """
    topology = mesh.topology
    merged = merged or mesh.replica_group.size > 1
    found: dict[tuple[int | str | None, bool, int, int], dict[str, tuple[int, ...]]] = {}
    for number, group in enumerate(groups):
        for name in group:
            part = rank_slice(name, shapes[name], config, topology.tensor_rank, topology.tensor)
            partial = part.copies if _is_partial(name, mesh) else 1
            matrix = len(shapes[name]) > 1
            shared = factors or (not matrix and name != NORM)
            key = name if not merged and partial == 1 else None if shared else number
            found.setdefault((key, matrix, part.copies, partial), {})[name] = part.shape(shapes[name])
    return [
        Bucket(tuple(tensors), tuple(tensors.values()), matrix, copies, partial)
        for (_, matrix, copies, partial), tensors in found.items()
    ]


def _is_partial(name: str, mesh: Mesh) -> bool:
    """Whether tensor ranks that hold the same tensor each compute only a part of its gradient."""
    if name == NORM:
        return False  # the last norm sees all rows on every rank
    return mesh.topology.sequence or not name.endswith("layernorm.weight")
