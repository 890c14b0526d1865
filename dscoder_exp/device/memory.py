"""Copies between numpy arrays on the host and tensors on the device, each made once.

MindSpore (2.10.0) keeps a tensor made from a numpy array in host memory: every call of a compiled function uploads it
again, and discards the copy together with what the function wrote into it. So weights, optimizer states and the inputs
of a step are put on the device with the functions of this module. On the CPU a tensor shares its array's memory, and
nothing is copied.
"""

import resource
from collections.abc import Sequence
from itertools import accumulate

import mindspore as ms
import numpy as np
from mindspore import mint
from numpy.typing import NDArray

# Host tensors whose asynchronous upload may not be finished, kept alive until the next fetch, which waits for them.
_uploading: list[ms.Tensor] = []


def _has_own_memory() -> bool:
    """Whether the device's memory is separate from the host's: true of NPUs."""
    return ms.get_context("device_target") != "CPU"


def put(array: NDArray) -> ms.Tensor:
    """Copy an array to the device and wait for the copy. On the CPU the tensor shares the array's memory instead."""
    contiguous = np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray turns shape [] into [1]
    host = ms.Tensor.from_numpy(contiguous)
    return host.move_to("Ascend") if _has_own_memory() else host


def put_all(*arrays: NDArray) -> list[ms.Tensor]:
    """Copy arrays of one dtype, the inputs of a step, to the device in one asynchronous copy."""
    if not _has_own_memory():
        return [put(array) for array in arrays]
    host = ms.Tensor.from_numpy(np.concatenate([array.reshape(-1) for array in arrays]))
    _uploading.append(host)
    parts = mint.split(host.move_to("Ascend", blocking=False), [array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


def fetch(tensor: ms.Tensor) -> NDArray:
    """Copy a tensor to the host, after waiting for all work that was queued on the device before."""
    array = tensor.asnumpy()
    _uploading.clear()
    return array


def clear(tensor: ms.Tensor) -> None:
    """Fill the tensor with zeros in place."""
    if _has_own_memory():
        tensor.zero_()
    else:
        tensor.asnumpy().fill(0)


def peak_gb() -> float:
    """The highest memory so far, in 1e9 bytes: allocated on an NPU, resident of the process on a CPU."""
    if _has_own_memory():
        return ms.runtime.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def views_of(flat: ms.Tensor, shapes: Sequence[tuple[int, ...]]) -> list[ms.Tensor]:
    """Views of consecutive parts of `flat` with the given shapes, sharing its memory; `flat` may be longer."""
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
