"""What ranks do together: one table of the collectives that are used, and the groups of a topology they are used in.

| | CPU (MindSpore's own backend over TCP: fp32, fp16) | Ascend (HCCL; NOT RUN HERE: no NPU was at hand) |
|---|---|---|
| all_reduce | AllReduce | AllReduce |
| all_gather | AllGather among all ranks; in a smaller group AllReduce, with zeros for the others' | AllGather |
| reduce_scatter | AllReduce, and a slice of it | ReduceScatter |

Two of them are called between compiled functions, too. On Ascend they return at once, and what is called next runs
beside them.
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
    """A collective that was started; `wait` has to be called once."""

    def wait(self) -> Any:
        """Kernels that are launched next see the result; the host itself doesn't wait."""
        ...


class Done:
    """The handle of a collective that has returned its result."""

    def wait(self) -> None:
        pass


@dataclass(frozen=True)
class ProcessGroup:
    """The collectives of one group of ranks; every rank of the group has to call the same one.

    Attributes:
        size: number of ranks.
        rank: this process's index among them.
    """

    size: int
    rank: int
    all_reduce: Function  # x -> the sum of all
    all_gather: Function  # x [n, ...] -> all of them, [size * n, ...], in the ranks' order
    reduce_scatter: Function  # x [size * n, ...] -> this rank's part of the sum, [n, ...]
    # For use between compiled functions; those above are for use within them:
    start_reduce_scatter: Callable[[ms.Tensor], tuple[ms.Tensor, Handle]]  # x [size * n] -> [n]
    start_all_gather: Callable[[ms.Tensor, ms.Tensor], Handle]  # (into [size * n], x [n]): writes all ranks' x


def identity(x):
    """Stands in for a collective where a rank is alone."""
    return x


def process_group(ranks: range, global_rank: int, device: str) -> ProcessGroup:
    """The collectives of the group of these ranks."""
    size, rank = len(ranks), ranks.index(global_rank)
    if size == 1:
        return ProcessGroup(1, 0, identity, identity, identity, lambda x: (x, Done()), lambda into, x: Done())
    everyone = size == get_group_size()
    name = GlobalComm.WORLD_COMM_GROUP if everyone else f"ranks {ranks.start} to {ranks[-1]} by {ranks.step}"
    if not everyone and name not in _created:
        create_group(name, list(ranks))
        _created.add(name)
    all_reduce: Any = ops.AllReduce(ops.ReduceOp.SUM, name)
    all_gather: Any = ops.AllGather(name)
    if device == "ascend":
        scatter: Any = ops.ReduceScatter(ops.ReduceOp.SUM, name)
        return ProcessGroup(size, rank, all_reduce, all_gather, scatter, *_started(name, size))

    def gather_by_sum(x):
        before, after = rank * x.shape[0], (size - rank - 1) * x.shape[0]
        parts = [x]
        if before > 0:
            parts = [ops.zeros((before, *x.shape[1:]), x.dtype), x]
        if after > 0:
            parts.append(ops.zeros((after, *x.shape[1:]), x.dtype))
        return all_reduce(ops.concat(parts))

    def reduce_scatter(x):
        rows, rest = x.shape[0] // size, x.shape[1:]
        return _slice(all_reduce(x), (rank * rows, *(0,) * len(rest)), (rows, *rest))

    gather = all_gather if everyone else gather_by_sum
    return ProcessGroup(size, rank, all_reduce, gather, reduce_scatter, *_finished(reduce_scatter, gather))


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

    def __init__(self, topology: Topology, device: str) -> None:
        self.topology, self._device = topology, device

    @cached_property
    def world(self) -> ProcessGroup:
        return self._among(range(self.topology.ranks))

    @cached_property
    def tp_group(self) -> ProcessGroup:
        return self._among(self.topology.tp_ranks())

    @cached_property
    def cp_group(self) -> ProcessGroup:
        return self._among(self.topology.cp_ranks())

    @cached_property
    def replica_group(self) -> ProcessGroup:
        return self._among(self.topology.replica_ranks())

    def copies_group(self, count: int) -> ProcessGroup:
        """Of the neighbours among the tensor ranks that hold the same of a tensor."""
        return self._among(self.topology.tp_ranks(count))

    @cached_property
    def _sum(self) -> Any:
        return _compiled(self.world.all_reduce)

    @cached_property
    def _gather(self) -> Any:
        return _compiled(self.tp_group.all_gather)

    def sums(self, *values: float) -> list[float]:
        """Each number's sum over all ranks, in fp32 between them."""
        if self.topology.ranks == 1:
            return list(values)
        return fetch(self._sum(*put_all(np.array(values, np.float32)))).tolist()

    def gathered(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values [n] of each tensor rank, [ranks, n]."""
        return fetch(self._gather(*put_all(values))).reshape(self.topology.tensor, -1)

    def barrier(self) -> None:
        """Return when all ranks are here."""
        self.sums(0.0)

    def _among(self, ranks: range) -> ProcessGroup:
        return process_group(ranks, self.topology.rank, self._device)


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
    topology = Topology(get_rank(), parallel.data, parallel.tensor, parallel.context, parallel.sequence)
    copies = topology.tp_ranks(max(1, parallel.tensor // key_heads))
    for ranks in (topology.tp_ranks(), topology.cp_ranks(), topology.replica_ranks(), copies):
        process_group(ranks, topology.rank, device)
    return Mesh(topology, device)
