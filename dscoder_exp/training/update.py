"""The arithmetic on all gradients: their norm, and AdamW's in place. By operators of MindSpore, or in C++ on the CPU.

MindSpore's AdamWeightDecay (2.10.0) runs on one thread of the CPU, at 6 GB/s.
"""

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ops

from dscoder_exp.model.units import Units
from dscoder_exp.native.library import library
from dscoder_exp.schema.config import OptimConfig

_adam: Any = ops.AdamWeightDecay()
_half_square: Any = ops.L2Loss()

Group = Sequence[ms.Tensor]
Groups = Sequence[Group]
Decayed = Sequence[Sequence[bool]]


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


@dataclass(frozen=True)
class Arithmetic:
    """
    Attributes:
        sum_of_squares: of all gradients.
        update: (numbers, which weights decay, weights, first moments, second moments, gradients); writes to the three
            before the last.
    """

    sum_of_squares: Callable[[Groups], float]
    update: Callable[[Numbers, Decayed, Groups, Groups, Groups, Groups], None]


def arithmetic_for(optim: OptimConfig, units: Units) -> Arithmetic:
    """In C++ where it could be compiled and the units are on the CPU."""
    compiled = library().path if units.device == "cpu" else None
    return _with_operators(optim, units) if compiled is None else _in_cpp(optim, compiled)


def _in_cpp(optim: OptimConfig, path: Path) -> Arithmetic:
    functions = ctypes.CDLL(str(path))  # a call lets other threads of Python run
    functions.sum_of_squares.restype = ctypes.c_double

    def sum_of_squares(gradients: Groups) -> float:
        return functions.sum_of_squares(*_sizes(gradients), _addresses(gradients))

    def update(numbers: Numbers, decayed: Decayed, *tensors: Groups) -> None:
        decays = [numbers.lr * numbers.decay * decays for group in decayed for decays in group]
        values = (ctypes.c_float(value) for value in (numbers.lr, numbers.eps, numbers.scale, *optim.betas))
        arrays = (_addresses(groups) for groups in tensors)
        functions.adamw(*_sizes(tensors[0]), (ctypes.c_float * len(decays))(*decays), *arrays, *values)

    return Arithmetic(sum_of_squares, update)


def _sizes(groups: Groups) -> tuple[ctypes.c_int64, Any]:
    sizes = [tensor.size for group in groups for tensor in group]
    return ctypes.c_int64(len(sizes)), (ctypes.c_int64 * len(sizes))(*sizes)


def _addresses(groups: Groups) -> Any:
    """Where the tensors' memory lies: an array of it shares it, and what is written there the next unit reads."""
    found = [tensor.asnumpy().ctypes.data for group in groups for tensor in group]
    return (ctypes.c_void_p * len(found))(*found)


def _with_operators(optim: OptimConfig, units: Units) -> Arithmetic:
    beta1, beta2 = optim.betas

    def adamw(lr, eps, scale, *decays_and_tensors):
        """Each weight's decay, then weights, first moments, second moments, gradients: five runs of equal length."""
        count = len(decays_and_tensors) // 5
        decays, tensors = decays_and_tensors[:count], decays_and_tensors[count:]
        for i in range(count):
            weight, first, second = tensors[i], tensors[count + i], tensors[2 * count + i]
            gradient = tensors[3 * count + i] * scale
            _adam(weight, first, second, lr, beta1, beta2, eps, decays[i], gradient)
        return lr

    def squares(*tensors):
        total = _half_square(tensors[0])
        for tensor in tensors[1:]:
            total = total + _half_square(tensor)
        return total * 2.0

    adamw_unit, squares_unit = units.unit(adamw, "optimizer"), units.unit(squares, "gradient norm")

    def sum_of_squares(gradients: Groups) -> float:
        return sum(float(squares_unit(*group).asnumpy()) for group in gradients)

    def update(numbers: Numbers, decayed: Decayed, *tensors: Groups) -> None:
        lr, eps, decay, scale, none = (ms.Tensor(np.float32(value)) for value in (*astuple(numbers), 0))
        for own, *groups in zip(decayed, *tensors, strict=True):
            decays = [decay if decays else none for decays in own]
            adamw_unit(lr, eps, scale, *decays, *(tensor for group in groups for tensor in group))

    return Arithmetic(sum_of_squares, update)
