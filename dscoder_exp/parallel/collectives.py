"""What ranks do together: one table of the collectives that are used, and the groups of a topology they are used in.

| | CPU (MindSpore's own backend over TCP: fp32, fp16) | Ascend (HCCL; NOT RUN HERE: no NPU was at hand) |
|---|---|---|
| all_reduce | AllReduce | AllReduce |
| all_gather | AllGather among all ranks; in a smaller group AllReduce, with zeros for the others' | AllGather |
| reduce_scatter | AllReduce, and a slice of it | ReduceScatter |

Two of them are called between compiled units, too, and on Ascend return at once: what is called next runs beside them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import mindspore as ms
import numpy as np
from mindspore import mint, ops
from mindspore.communication import GlobalComm, create_group, get_group_size, get_rank, init
from mindspore.ops.communication import all_gather_into_tensor, reduce_scatter_tensor
from numpy.typing import NDArray

from dscoder_exp.device.memory import fetch, put_all
from dscoder_exp.parallel.topology import Topology
from dscoder_exp.schema.config import ParallelConfig

Function = Callable[[Any], Any]
_slice = ops.Slice()
_assign = ops.Assign()
_created: set[str] = set()


class Handle(Protocol):
    """Of a collective that was started. To be waited for, once."""

    def wait(self) -> Any:
        """What is called next finds its result; the host doesn't wait."""
        ...


class Done:
    """The handle of a collective that has returned its result."""

    def wait(self) -> None:
        pass


@dataclass(frozen=True)
class Collectives:
    """Of one group of ranks; all of them call one at the same time.

    Attributes:
        size: how many they are.
        place: this one's among them.
    """

    size: int
    place: int
    all_reduce: Function  # x -> the sum of all
    all_gather: Function  # x [n, ...] -> all of them, [size * n, ...], in the ranks' order
    reduce_scatter: Function  # x [size * n, ...] -> this rank's part of the sum, [n, ...]
    # Between units, those above are for use within them:
    start_reduce_scatter: Callable[[ms.Tensor], tuple[ms.Tensor, Handle]]  # x [size * n] -> [n]
    start_all_gather: Callable[[ms.Tensor, ms.Tensor], Handle]  # (into [size * n], x [n]): writes all ranks' x


def same(x):
    """What a rank alone does in place of a collective."""
    return x


def collectives(ranks: range, rank: int, device: str) -> Collectives:
    """Those of the group that holds these ranks; alone, a rank has everything already."""
    size, place = len(ranks), ranks.index(rank)
    if size == 1:
        return Collectives(1, 0, same, same, same, lambda x: (x, Done()), lambda into, x: Done())
    everyone = size == get_group_size()
    name = GlobalComm.WORLD_COMM_GROUP if everyone else f"ranks {ranks.start} to {ranks[-1]} by {ranks.step}"
    if not everyone and name not in _created:
        create_group(name, list(ranks))
        _created.add(name)
    all_reduce: Any = ops.AllReduce(ops.ReduceOp.SUM, name)
    all_gather: Any = ops.AllGather(name)
    if device == "ascend":
        scatter: Any = ops.ReduceScatter(ops.ReduceOp.SUM, name)
        return Collectives(size, place, all_reduce, all_gather, scatter, *_started(name, size))

    def gather_by_sum(x):
        before, after = place * x.shape[0], (size - place - 1) * x.shape[0]
        parts = [x]
        if before > 0:
            parts = [ops.zeros((before, *x.shape[1:]), x.dtype), x]
        if after > 0:
            parts.append(ops.zeros((after, *x.shape[1:]), x.dtype))
        return all_reduce(ops.concat(parts))

    def reduce_scatter(x):
        rows, rest = x.shape[0] // size, x.shape[1:]
        return _slice(all_reduce(x), (place * rows, *(0,) * len(rest)), (rows, *rest))

    gather = all_gather if everyone else gather_by_sum
    return Collectives(size, place, all_reduce, gather, reduce_scatter, *_finished(reduce_scatter, gather))


def _started(group: str, size: int) -> tuple[Any, Any]:
    """start_reduce_scatter and start_all_gather of Ascend, on a stream of their own."""

    def start_reduce_scatter(x: ms.Tensor) -> tuple[ms.Tensor, Any]:
        own = mint.empty((x.shape[0] // size,), dtype=x.dtype)
        return own, reduce_scatter_tensor(own, x, group=group, async_op=True)

    def start_all_gather(into: ms.Tensor, x: ms.Tensor) -> Any:
        return all_gather_into_tensor(into, x, group=group, async_op=True)

    return start_reduce_scatter, start_all_gather


def _finished(reduce_scatter: Function, gather: Function) -> tuple[Any, Any]:
    """Those of the CPU, which return when all is done: two threads that call MindSpore there crash."""
    scattered = _compiled(reduce_scatter)

    def gather_into(into, x):
        _assign(into, gather(x))
        return x

    gathered: Any = ms.jit(gather_into)

    def start_reduce_scatter(x: ms.Tensor) -> tuple[ms.Tensor, Handle]:
        own = scattered(x)
        own.wait_pipeline()
        return own, Done()

    def start_all_gather(into: ms.Tensor, x: ms.Tensor) -> Handle:
        gathered(into, x).wait_pipeline()
        return Done()

    return start_reduce_scatter, start_all_gather


def _compiled(collective: Function) -> Any:
    def call(values):
        return collective(values)

    return ms.jit(call)


class Mesh:
    """A topology with its groups, for use once `join` has made them."""

    def __init__(self, place: Topology, device: str) -> None:
        self.place, self._device = place, device

    @cached_property
    def world(self) -> Collectives:
        return self._among(range(self.place.ranks))

    @cached_property
    def tensor(self) -> Collectives:
        return self._among(self.place.sharing_tensors())

    @cached_property
    def context(self) -> Collectives:
        return self._among(self.place.sharing_positions())

    @cached_property
    def replicas(self) -> Collectives:
        return self._among(self.place.sharing_weights())

    def copies(self, count: int) -> Collectives:
        """Of the neighbours among the tensor ranks that hold the same of a tensor."""
        return self._among(self.place.sharing_tensors(count))

    @cached_property
    def _sum(self) -> Any:
        return _compiled(self.world.all_reduce)

    @cached_property
    def _gather(self) -> Any:
        return _compiled(self.tensor.all_gather)

    def sums(self, *values: float) -> list[float]:
        """Each number's sum over all ranks, in fp32 between them."""
        if self.place.ranks == 1:
            return list(values)
        return fetch(self._sum(*put_all(np.array(values, np.float32)))).tolist()

    def gathered(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values [n] of each tensor rank, [ranks, n]."""
        return fetch(self._gather(*put_all(values))).reshape(self.place.tensor, -1)

    def meet(self) -> None:
        """Return when all ranks are here."""
        self.sums(0.0)

    def _among(self, ranks: range) -> Collectives:
        return collectives(ranks, self.place.rank, self._device)


ALONE = Mesh(Topology(0), "cpu")


def join(parallel: ParallelConfig, device: str, key_heads: int) -> Mesh:
    """Meet the job's other processes. Comes after the device was chosen; msrun has set the addresses.

    All groups are made here: HCCL wants them from all ranks in one order, early.

    Args:
        key_heads: of the model; where they are fewer than tensor ranks, neighbours hold the same one.
    """
    if parallel.ranks == 1:
        return Mesh(Topology(0), device)
    init()
    place = Topology(get_rank(), parallel.data, parallel.tensor, parallel.context, parallel.sequence)
    copies = place.sharing_tensors(max(1, parallel.tensor // key_heads))
    for ranks in (place.sharing_tensors(), place.sharing_positions(), place.sharing_weights(), copies):
        collectives(ranks, place.rank, device)
    return Mesh(place, device)
