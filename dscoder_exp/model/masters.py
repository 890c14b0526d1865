"""The fp32 master weights that the optimizer updates, and the weights that the model computes with.

ZeRO-1 (Rajbhandari et al. 2019, arXiv:1910.02054): each replica owns an fp32 slice of each bucket of trained tensors.
The model computes with whole buckets, all-gathered in the model's precision (as in DeepSpeed's ZeRO), so bf16 weights
take 2 bytes a parameter. With one replica the model computes with the fp32 master weights themselves on Ascend, where
each use rounds them, and in fp32; on the CPU it computes with a rounded copy.
"""

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import mint
from numpy.typing import NDArray

from dscoder_exp.device.memory import fetch, put, views_of
from dscoder_exp.native.library import library
from dscoder_exp.parallel.buckets import Bucket, FlatShard
from dscoder_exp.parallel.collectives import Handle, Mesh
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.names import NORM
from dscoder_exp.weights.native.layout import rank_slice

_NOTHING = np.empty(0, np.float32)


@dataclass(frozen=True)
class BucketSlot:
    """A tensor's position: the index of its bucket, and its index among that bucket's tensors."""

    bucket: int
    index: int


class MasterWeights:
    """The buckets of trained tensors, and this rank's fp32 slice of each bucket, on the device.

    Attributes:
        buckets: in the order in which a forward pass needs them.
        counted: for each bucket, whether this rank adds its slice to the gradient norm; of tensor ranks that hold the
            same values, only the first does.
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
            groups: names of the trained tensors in the model's groups: embedding, each block, head.
            shapes: whole shape of each trained tensor.
            factors: the tensors are LoRA factors, which are small and share one bucket for all blocks.
            dtype: of the weights that the model computes with, where they aren't the master weights themselves.
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
        self._round = _rounding(dtype) if device == "cpu" else None
        self._read: list[dict[int, NDArray[np.float32]]] = [{} for _ in self.buckets]
        self._gathering: dict[int, Handle] = {}
        self._slices: dict[int, ms.Tensor] = {}
        self._flat: dict[int, ms.Tensor] = {}

    def load(self, name: str, values: NDArray[np.float32]) -> None:
        """Keep this rank's shard of a tensor; when its bucket is complete, copy the bucket's slice to the device.

        On the CPU a tensor that is alone in its bucket uses the array's memory.

        Args:
            values: this tensor rank's part of the tensor.
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
        if replicas > 1 or self._round is not None:
            self._flat[number] = mint.zeros((length * replicas,), dtype=self._dtype)
            self.start_gather(number)
            self._wait(number)

    @property
    def slices(self) -> list[ms.Tensor]:
        """This rank's slice of each bucket: fp32 [length]."""
        return [self._slices[number] for number in range(len(self.buckets))]

    def weights(self) -> dict[str, ms.Tensor]:
        """Name -> tensor that the model computes with, a view of the bucket that `start_gather` writes to."""
        return {
            name: tensor
            for number, bucket in enumerate(self.buckets)
            for name, tensor in zip(bucket.names, views_of(self._flat[number], bucket.shapes), strict=True)
        }

    def start_gather(self, number: int) -> None:
        """Start the all-gather of a bucket's current slices into the model's weights, rounded; a no-op where the model
        computes with the slices.
        """
        if self._round is not None:
            whole = self._gathered(number)
            self._round(ctypes.c_int64(whole.size), *map(_address, (whole, self._flat[number])))
        elif self._replicas.size > 1:
            self._wait(number)  # MindSpore reports an error for a handle that is never waited for
            own = self._slices[number].astype(self._dtype)
            self._gathering[number] = self._replicas.start_all_gather(self._flat[number], own)

    def wait_group(self, group: int) -> None:
        """Wait for the all-gathers of a group's tensors: kernels launched afterwards read the new weights."""
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
        """The shards of tensors that make up this rank's slice of a bucket, in order; zeros pad the slice's end."""
        return self.buckets[number].shards(self._replicas.rank, self._replicas.size)

    def owned(self) -> list[FlatShard]:
        """`shards` of all buckets, in order."""
        return [shard for number in range(len(self.buckets)) for shard in self.shards(number)]

    def split(self, number: int, values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Views of each of `shards` in an array [length] laid out like this rank's slice of the bucket."""
        ends = np.cumsum([shard.last - shard.first for shard in self.shards(number)])
        return np.split(values.reshape(-1), ends)[: len(ends)]

    def state(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield (name, fp32 array) of this tensor rank's part of each trained tensor.

        All replicas have to call this; only the first one gets the arrays.
        """
        self.wait_all()
        for number, bucket in enumerate(self.buckets):
            whole = self._gathered(number)
            if self._replicas.rank == 0:
                *parts, _ = np.split(fetch(whole).reshape(-1), np.cumsum(bucket.sizes))
                yield from zip(bucket.names, map(np.reshape, parts, bucket.shapes), strict=True)

    def _gathered(self, number: int) -> ms.Tensor:
        """The fp32 slices of all replicas, one after another."""
        own, replicas = self._slices[number], self._replicas
        if replicas.size == 1:
            return own
        whole = mint.zeros((own.size * replicas.size,), dtype=ms.float32)
        replicas.start_all_gather(whole, own).wait()
        return whole


def _rounding(dtype: ms.Type) -> Callable[..., None] | None:
    """The C++ function that rounds fp32 weights (count, from, to) to this dtype on all threads; None: fp32 needs none,
    or there is no compiler.
    """
    name, path = {ms.bfloat16: "bf16", ms.float16: "fp16"}.get(dtype), library().path
    if name is None or path is None:
        return None
    function = getattr(ctypes.CDLL(str(path)), f"round_to_{name}")
    function.restype = None
    return function


def _address(tensor: ms.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.asnumpy().ctypes.data)


def _buckets(
    groups: Sequence[Sequence[str]],
    shapes: Mapping[str, tuple[int, ...]],
    config: LlamaConfig,
    mesh: Mesh,
    *,
    factors: bool,
    merged: bool,
) -> list[Bucket]:
    """One bucket for each group's matrices, and one for the norms of all blocks. Tensors with different `copies` or
    `partial` are never in one bucket.

    Args:
        merged: build these buckets with one replica, too. Otherwise, with one replica, each tensor is its own bucket,
            which saves a copy.
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
    """Whether each of the tensor ranks that hold this tensor computes only a partial sum of its gradient."""
    if name == NORM:
        return False  # every rank computes the final norm over all rows
    return mesh.topology.sequence or not name.endswith("layernorm.weight")
