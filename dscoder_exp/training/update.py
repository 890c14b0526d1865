"""AdamW's arithmetic on a group of weights, in place: a fused operator on an NPU, NumPy on the CPU.

On the CPU MindSpore's AdamWeightDecay (2.10.0) runs on one thread, at 6 GB/s. Here all threads take pieces small enough
for a core's cache to keep between the passes.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ops
from numpy.typing import NDArray

from dscoder_exp.model.device import host_threads
from dscoder_exp.model.units import Units
from dscoder_exp.schema.config import OptimConfig

PIECE = 2**17  # elements; of 2^13 to 2^21 the fastest, with 2 MB of L2 cache a core

_adam: Any = ops.AdamWeightDecay()

Group = Sequence[ms.Tensor]
Update = Callable[["Numbers", Group, Group, Group, Group], None]  # (…, weights, first, second moments, gradients)


@dataclass(frozen=True)
class Numbers:
    """Of one step, for arithmetic that corrects no bias, since these can hold the correction.

    lr m / c1 / (sqrt(v / c2) + eps) = (lr sqrt(c2) / c1) m / (sqrt(v) + eps sqrt(c2)), where c1 = 1 - beta1^t and
    c2 = 1 - beta2^t; the decay is divided by what the learning rate gained.
    """

    lr: float
    eps: float
    decay: float  # times this lr it is AdamW's lr * weight_decay
    scale: float  # that gradients are multiplied with

    @classmethod
    def of(cls, optim: OptimConfig, step: int, lr: float, scale: float) -> "Numbers":
        """
        Args:
            step: from 1.
        """
        beta1, beta2 = optim.betas
        root = math.sqrt(1 - beta2**step)
        ratio = root / (1 - beta1**step)
        return cls(lr * ratio, optim.eps * root, optim.weight_decay / ratio, scale)


def make_update(optim: OptimConfig, units: Units) -> Update:
    """The update for the device of these units."""
    return _on_host(optim) if units.device == "cpu" else _compiled(optim, units)


def _on_host(optim: OptimConfig) -> Update:
    threads = host_threads()
    pool = ThreadPoolExecutor(threads, "optimizer")
    beta1, beta2 = optim.betas

    def update(numbers: Numbers, *groups: Group) -> None:
        # A tensor's array is its memory, not a copy, and what is written to it is what the next unit reads.
        pieces = [
            (*(array.reshape(-1)[start : start + PIECE] for array in arrays), _decayed(arrays[0], optim))
            for arrays in ([tensor.asnumpy() for tensor in tensors] for tensors in zip(*groups, strict=True))
            for start in range(0, arrays[0].size, PIECE)
        ]
        shares = [pieces[thread::threads] for thread in range(threads)]
        for done in [pool.submit(take, numbers, share) for share in shares if share]:
            done.result()

    def take(numbers: Numbers, pieces: Sequence[tuple[Any, ...]]) -> None:
        scratch = np.empty(max(piece[0].size for piece in pieces), np.float32)
        for weight, first, second, gradient, decayed in pieces:
            change: NDArray[np.float32] = scratch[: weight.size]
            np.multiply(gradient, numbers.scale * (1 - beta1), out=change)
            first *= beta1
            first += change
            np.multiply(gradient, numbers.scale, out=change)
            change *= change
            change *= 1 - beta2
            second *= beta2
            second += change
            np.sqrt(second, out=change)
            change += numbers.eps
            np.divide(first, change, out=change)
            change *= numbers.lr
            if decayed:
                weight *= 1 - numbers.lr * numbers.decay
            weight -= change

    return update


def _compiled(optim: OptimConfig, units: Units) -> Update:
    beta1, beta2 = optim.betas

    def compiled(lr, eps, decay, scale, *tensors):
        """tensors: weights, first moments, second moments, gradients: four runs of equal length."""
        count = len(tensors) // 4
        for i in range(count):
            weight, first, second = tensors[i], tensors[count + i], tensors[2 * count + i]
            gradient = tensors[3 * count + i] * scale
            own_decay = decay if _decayed(weight, optim) else 0.0
            _adam(weight, first, second, lr, beta1, beta2, eps, own_decay, gradient)
        return lr

    unit = units.unit(compiled, "optimizer")

    def update(numbers: Numbers, *groups: Group) -> None:
        values = (ms.Tensor(np.float32(value)) for value in astuple(numbers))
        unit(*values, *(tensor for group in groups for tensor in group))

    return update


def _decayed(weight: Any, optim: OptimConfig) -> bool:
    """Whether this weight is: matrices are, norms where they are asked for."""
    return optim.decay_norms or len(weight.shape) > 1
