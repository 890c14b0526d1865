"""Arrays between the host and the device: each crosses once.

A tensor made from numpy is the host's. MindSpore (2.10.0) uploads such a tensor at every call of a compiled function,
and throws the copy away with all that was written into it. So what lives on the device, and what a step brings, goes
through here; on the CPU a tensor shares its array's memory, and nothing is copied.
"""

from collections.abc import Sequence
from itertools import accumulate

import mindspore as ms
import numpy as np
from mindspore import mint
from numpy.typing import NDArray

# The host's side of copies that may still be under way. Each fetch waits for them, and so they are few.
_under_way: list[ms.Tensor] = []


def _has_own_memory() -> bool:
    return ms.get_context("device_target") != "CPU"


def put(array: NDArray) -> ms.Tensor:
    """The array on the device, there to stay; returns when it is there. On the CPU the two share their memory."""
    host = ms.Tensor.from_numpy(np.ascontiguousarray(array).reshape(array.shape))  # the former makes [1] of []
    return host.move_to("Ascend") if _has_own_memory() else host


def put_all(*arrays: NDArray) -> list[ms.Tensor]:
    """What a step brings, arrays of one dtype: all of it crosses in one copy, which nobody waits for."""
    if not _has_own_memory():
        return [put(array) for array in arrays]
    host = ms.Tensor.from_numpy(np.concatenate([array.reshape(-1) for array in arrays]))
    _under_way.append(host)
    parts = mint.split(host.move_to("Ascend", blocking=False), [array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


def fetch(tensor: ms.Tensor) -> NDArray:
    """The tensor's values on the host, once all that was asked of the device before is done."""
    array = tensor.asnumpy()
    _under_way.clear()
    return array


def clear(tensor: ms.Tensor) -> None:
    """Zeros into it."""
    if _has_own_memory():
        tensor.zero_()
    else:
        tensor.asnumpy().fill(0)


def views_of(flat: ms.Tensor, shapes: Sequence[tuple[int, ...]]) -> list[ms.Tensor]:
    """Tensors of these shapes that lie end to end in `flat`, and share its memory; values behind the last are left."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    if not _has_own_memory():
        array, ends = flat.asnumpy(), accumulate(sizes)
        return [
            ms.Tensor.from_numpy(array[end - size : end].reshape(shape))
            for end, size, shape in zip(ends, sizes, shapes, strict=True)
        ]
    rest = flat.size - sum(sizes)
    parts = mint.split(flat, [*sizes, rest] if rest else sizes)
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=False)]
