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
        update: (numbers, weights, first moments, second moments, gradients); writes to all but the last.
    """

    sum_of_squares: Callable[[Groups], float]
    update: Callable[[Numbers, Groups, Groups, Groups, Groups], None]


def arithmetic_for(optim: OptimConfig, units: Units) -> Arithmetic:
    """In C++ where it could be compiled and the units are on the CPU."""
    compiled = library().path if units.device == "cpu" else None
    return _with_operators(optim, units) if compiled is None else _in_cpp(optim, compiled)


def _in_cpp(optim: OptimConfig, path: Path) -> Arithmetic:
    functions = ctypes.CDLL(str(path))  # a call lets other threads of Python run
    functions.sum_of_squares.restype = ctypes.c_double

    def sum_of_squares(gradients: Groups) -> float:
        return functions.sum_of_squares(*_sizes(gradients), _addresses(gradients))

    def update(numbers: Numbers, *tensors: Groups) -> None:
        decays = [numbers.lr * numbers.decay * _decayed(weight, optim) for group in tensors[0] for weight in group]
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

    def adamw(lr, eps, decay, scale, *tensors):
        """tensors: weights, first moments, second moments, gradients: four runs of equal length."""
        count = len(tensors) // 4
        for i in range(count):
            weight, first, second = tensors[i], tensors[count + i], tensors[2 * count + i]
            gradient = tensors[3 * count + i] * scale
            own_decay = decay if _decayed(weight, optim) else 0.0
            _adam(weight, first, second, lr, beta1, beta2, eps, own_decay, gradient)
        return lr

    def squares(*tensors):
        total = _half_square(tensors[0])
        for tensor in tensors[1:]:
            total = total + _half_square(tensor)
        return total * 2.0

    adamw_unit, squares_unit = units.unit(adamw, "optimizer"), units.unit(squares, "gradient norm")

    def sum_of_squares(gradients: Groups) -> float:
        return sum(float(squares_unit(*group).asnumpy()) for group in gradients)

    def update(numbers: Numbers, *tensors: Groups) -> None:
        values = [ms.Tensor(np.float32(value)) for value in astuple(numbers)]
        for groups in zip(*tensors, strict=True):
            adamw_unit(*values, *(tensor for group in groups for tensor in group))

    return Arithmetic(sum_of_squares, update)


def _decayed(weight: Any, optim: OptimConfig) -> bool:
    """Whether this weight is: matrices are, norms where they are asked for."""
    return optim.decay_norms or len(weight.shape) > 1
