"""The collectives that are used, and the process groups of a topology.

| | CPU (MindSpore's own backend over TCP: fp32, fp16) | Ascend (HCCL; NOT RUN HERE: no NPU was at hand) |
|---|---|---|
| all_reduce | AllReduce | AllReduce |
| all_gather | AllGather over all ranks; in a smaller group AllReduce, zeros in the others' place | AllGather |
| reduce_scatter | AllReduce, then this rank's slice | ReduceScatter |

all_gather and reduce_scatter are also called between compiled functions. On Ascend these calls are asynchronous: they
return at once, and run beside the kernels that are launched next.
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
    """A collective that was started; `wait` has to be called exactly once."""

    def wait(self) -> Any:
        """Make kernels that are launched next wait for the result; the host itself doesn't wait."""
        ...


class CompletedHandle:
    """The handle of a collective that has already finished."""

    def wait(self) -> None:
        pass


@dataclass(frozen=True)
class ProcessGroup:
    """The collectives of one group of ranks. All its ranks have to call them in the same order, with the same shapes.

    Attributes:
        size: number of ranks.
        rank: this process's index in the group, not its global rank.
        device: "cpu" or "ascend".
    """

    size: int
    rank: int
    device: str
    # For use within compiled functions:
    all_reduce: Function  # x -> the sum of all ranks' x, in its shape and dtype
    all_gather: Function  # x [n, ...] -> all ranks' x in rank order, [size * n, ...]
    reduce_scatter: Function  # x [size * n, ...] -> elements [rank * n, (rank + 1) * n) of the sum, [n, ...]
    # For use between compiled functions:
    start_reduce_scatter: Callable[[ms.Tensor], tuple[ms.Tensor, Handle]]  # x [size * n] -> [n]
    start_all_gather: Callable[[ms.Tensor, ms.Tensor], Handle]  # (into [size * n], x [n]): writes into


def identity(x):
    """Any collective in a group of one rank."""
    return x


def in_fp32(function: Function) -> Function:
    """A function of one array, computed in fp32, whose result is rounded to the array's dtype: in bf16, on the CPU,
    MindSpore neither exchanges arrays nor changes their shape.
    """

    def computed(x):
        return ops.cast(function(ops.cast(x, ms.float32)), x.dtype)

    return computed


def process_group(ranks: range, global_rank: int, device: str) -> ProcessGroup:
    """Create the process group of these global ranks, once, and return its collectives.

    Args:
        ranks: the group's global ranks, `global_rank` among them.
        device: "cpu" or "ascend".
    """
    size, rank = len(ranks), ranks.index(global_rank)
    if size == 1:
        starts = lambda x: (x, CompletedHandle()), lambda into, x: CompletedHandle()
        return ProcessGroup(1, 0, device, identity, identity, identity, *starts)
    is_world = size == get_group_size()
    name = GlobalComm.WORLD_COMM_GROUP if is_world else f"ranks {ranks.start} to {ranks[-1]} by {ranks.step}"
    if not is_world and name not in _created:
        create_group(name, list(ranks))
        _created.add(name)
    all_reduce: Any = ops.AllReduce(ops.ReduceOp.SUM, name)
    all_gather: Any = ops.AllGather(name)
    if device == "ascend":
        scatter: Any = ops.ReduceScatter(ops.ReduceOp.SUM, name)
        return ProcessGroup(size, rank, device, all_reduce, all_gather, scatter, *_async_starts(name, size))

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

    gather = all_gather if is_world else gather_by_sum
    starts = _blocking_starts(reduce_scatter, gather)
    return ProcessGroup(size, rank, device, in_fp32(all_reduce), in_fp32(gather), in_fp32(reduce_scatter), *starts)


def _async_starts(group: str, size: int) -> tuple[Any, Any]:
    """start_reduce_scatter and start_all_gather on Ascend, where they run on a stream of their own."""

    def start_reduce_scatter(x: ms.Tensor) -> tuple[ms.Tensor, Any]:
        own = mint.empty((x.shape[0] // size,), dtype=x.dtype)
        return own, reduce_scatter_tensor(own, x, group=group, async_op=True)

    def start_all_gather(into: ms.Tensor, x: ms.Tensor) -> Any:
        return all_gather_into_tensor(into, x, group=group, async_op=True)

    return start_reduce_scatter, start_all_gather


def _blocking_starts(reduce_scatter: Function, gather: Function) -> tuple[Any, Any]:
    """start_reduce_scatter and start_all_gather on the CPU. They block: two threads that call MindSpore there crash."""
    scattered = _compiled(reduce_scatter)

    def gather_into(into, x):
        _assign(into, gather(x))
        return x

    gathered: Any = ms.jit(gather_into)

    def start_reduce_scatter(x: ms.Tensor) -> tuple[ms.Tensor, Handle]:
        own = scattered(x)
        own.wait_pipeline()
        return own, CompletedHandle()

    def start_all_gather(into: ms.Tensor, x: ms.Tensor) -> Handle:
        gathered(into, x).wait_pipeline()
        return CompletedHandle()

    return start_reduce_scatter, start_all_gather


def _compiled(collective: Function) -> Any:
    def call(values):
        return collective(values)

    return ms.jit(call)


class Mesh:
    """A topology and its process groups, which `join` creates beforehand."""

    def __init__(self, topology: Topology, device: str) -> None:
        self.topology, self._device = topology, device

    @cached_property
    def world(self) -> ProcessGroup:
        """All ranks of the job."""
        return self._group(range(self.topology.ranks))

    @cached_property
    def tp_group(self) -> ProcessGroup:
        """The tensor-parallel group: ranks that divide heads, MLP and vocabulary."""
        return self._group(self.topology.tp_ranks())

    @cached_property
    def cp_group(self) -> ProcessGroup:
        """The context-parallel group: ranks that divide the positions of a sequence."""
        return self._group(self.topology.cp_ranks())

    @cached_property
    def replica_group(self) -> ProcessGroup:
        """Ranks that hold the same weights, over data and context; each owns a slice of the fp32 master weights."""
        return self._group(self.topology.replica_ranks())

    def copies_group(self, count: int) -> ProcessGroup:
        """The `count` neighbouring tensor ranks that hold the same part of a tensor, such as the same key head."""
        return self._group(self.topology.tp_ranks(count))

    @cached_property
    def _sum(self) -> Any:
        return _compiled(self.world.all_reduce)

    @cached_property
    def _gather(self) -> Any:
        return _compiled(self.tp_group.all_gather)

    def sums(self, *values: float) -> list[float]:
        """Each value's sum over all ranks, on all ranks. Several ranks send and sum them as fp32."""
        if self.topology.ranks == 1:
            return list(values)
        return fetch(self._sum(*put_all(np.array(values, np.float32)))).tolist()

    def gathered(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """fp32 values [n] of each rank of the tensor-parallel group -> [tensor, n], on each of them."""
        return fetch(self._gather(*put_all(values))).reshape(self.topology.tensor, -1)

    def barrier(self) -> None:
        """Wait until all ranks of the job have called this."""
        self.sums(0.0)

    def _group(self, ranks: range) -> ProcessGroup:
        return process_group(ranks, self.topology.rank, self._device)


ALONE = Mesh(Topology(0), "cpu")


def join(parallel: ParallelConfig, device: str, key_heads: int) -> Mesh:
    """Connect to the job's other processes and create all process groups. Call it after start_device.

    The groups are created here since HCCL needs them early, and from all ranks in one order. msrun has set the
    environment variables that hold addresses and ranks.

    Args:
        device: "cpu" or "ascend".
        key_heads: the model's key heads; where there are fewer than tensor ranks, neighbours hold the same one.
    """
    if parallel.ranks == 1:
        return Mesh(Topology(0), device)
    init()
    topology = Topology(get_rank(), parallel.data, parallel.tensor, parallel.context, parallel.sequence)
    copies = topology.tp_ranks(max(1, parallel.tensor // key_heads))
    for ranks in (topology.tp_ranks(), topology.cp_ranks(), topology.replica_ranks(), copies):
        process_group(ranks, topology.rank, device)
    return Mesh(topology, device)
