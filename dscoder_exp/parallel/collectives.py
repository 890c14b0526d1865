"""What replicas add up."""

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ops

from dscoder_exp.parallel.topology import Topology


class Sums:
    """Sums over all replicas; with one, everything is its own sum."""

    def __init__(self, topology: Topology) -> None:
        self._alone = topology.ranks == 1
        if not self._alone:
            all_reduce = ops.AllReduce(ops.ReduceOp.SUM)

            def reduce(*tensors):
                return [all_reduce(tensor) for tensor in tensors]

            self._reduce: Any = ms.jit(reduce)

    def tensors(self, group: Sequence[ms.Tensor]) -> list[ms.Tensor]:
        """Each tensor's sum; groups of equal shapes share one compiled call."""
        return list(group) if self._alone else list(self._reduce(*group))

    def numbers(self, *values: float) -> list[float]:
        """Each number's sum, in fp32 between ranks."""
        if self._alone:
            return list(values)
        (summed,) = self._reduce(ms.Tensor(np.array(values, np.float32)))
        return summed.asnumpy().tolist()


def meet(topology: Topology) -> None:
    """Return when all replicas are here."""
    Sums(topology).numbers(0.0)
