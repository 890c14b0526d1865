"""The arithmetic on all gradients: their norm, and AdamW's in place.

On Ascend by one operator a bucket; on the CPU in C++ where it could be compiled, else by MindSpore's AdamWeightDecay
(2.10.0), which runs on one thread, at 6 GB/s.
"""

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import mindspore as ms
import numpy as np
from mindspore import mint, ops
from mindspore.ops.auto_generate import AdamW as FusedAdamW

from dscoder_exp.device.memory import fetch, put, put_all
from dscoder_exp.model.compiled import CompiledFunctions
from dscoder_exp.native.library import library
from dscoder_exp.schema.config import OptimConfig

Arrays = Sequence[ms.Tensor]  # one a bucket, fp32


@dataclass(frozen=True)
class Update:
    """What one step does to all buckets.

    Attributes:
        step: from 1.
        scale: that gradients are multiplied with.
        decayed: which buckets' weights decay.
        weights, first, second: written to, in place; the latter two are the moments.
        gradients: emptied bucket by bucket: on a card their memory is then free for the bf16 copies that are gathered.
    """

    step: int
    lr: float
    scale: float
    decayed: Sequence[bool]
    weights: Arrays
    first: Arrays
    second: Arrays
    gradients: list[ms.Tensor]


class Arithmetic(Protocol):
    def norm(self, gradients: Arrays) -> float:
        """The L2 norm of all of them together."""
        ...

    def update(self, update: Update) -> Iterator[int]:
        """Take the step; yields each bucket's number once it has been taken, or was asked of the device."""
        ...


def arithmetic_for(optim: OptimConfig, compiled: CompiledFunctions) -> Arithmetic:
    if compiled.device != "cpu":
        return _Fused(optim)
    path = library().path
    return _Operators(optim, compiled) if path is None else _Cpp(optim, path)


class _Fused:
    """On Ascend, by operators that take numbers as they are: nothing is compiled for them."""

    def __init__(self, optim: OptimConfig) -> None:
        self._optim, self._adamw = optim, cast(Callable[..., Any], FusedAdamW())

    def norm(self, gradients: Arrays) -> float:
        if not gradients:  # this rank counts none: others hold the same
            return 0.0
        norms = mint.stack([mint.linalg.vector_norm(gradient) for gradient in gradients])
        return math.sqrt(np.square(fetch(norms).astype(np.float64)).sum())

    def update(self, update: Update) -> Iterator[int]:
        """The operator adds 1 to the step (hicann/ops-nn, apply_adam_w_v2_fp.h), and so it is given one less."""
        (beta1, beta2), eps = self._optim.betas, self._optim.eps
        (step,) = put_all(np.array([update.step - 1], np.float32))
        for number, decays in enumerate(update.decayed):
            weight, first, second = (arrays[number] for arrays in (update.weights, update.first, update.second))
            gradient = update.gradients.pop(0).mul_(update.scale).view(weight.shape)
            decay = self._optim.weight_decay if decays else 0.0
            # The fourth is AMSGrad's, which is off.
            arrays = weight, first, second, second, gradient, step
            self._adamw(*arrays, update.lr, beta1, beta2, decay, eps, False, False)
            yield number


@dataclass(frozen=True)
class AdamWScalars:
    """Of one step, for arithmetic that corrects no bias, since these can hold the correction.

    lr m / c1 / (sqrt(v / c2) + eps) = (lr sqrt(c2) / c1) m / (sqrt(v) + eps sqrt(c2)), where c1 = 1 - beta1^t and
    c2 = 1 - beta2^t; the decay is divided by what the learning rate gained.
    """

    lr: float
    eps: float
    decay: float  # times this lr it is AdamW's lr * weight_decay
    scale: float  # that gradients are multiplied with

    @classmethod
    def of(cls, optim: OptimConfig, update: Update) -> "AdamWScalars":
        beta1, beta2 = optim.betas
        root = math.sqrt(1 - beta2**update.step)
        ratio = root / (1 - beta1**update.step)
        return cls(update.lr * ratio, optim.eps * root, optim.weight_decay / ratio, update.scale)


class _Cpp:
    """In C++, on the CPU."""

    def __init__(self, optim: OptimConfig, path: Path) -> None:
        self._optim, self._functions = optim, ctypes.CDLL(str(path))  # a call lets other threads of Python run
        self._functions.sum_of_squares.restype = ctypes.c_double

    def norm(self, gradients: Arrays) -> float:
        return math.sqrt(self._functions.sum_of_squares(*_sizes(gradients), _addresses(gradients)))

    def update(self, update: Update) -> Iterator[int]:
        scalars = AdamWScalars.of(self._optim, update)
        decays = [scalars.lr * scalars.decay * decays for decays in update.decayed]
        values = (scalars.lr, scalars.eps, scalars.scale, *self._optim.betas)
        arrays = (_addresses(of) for of in (update.weights, update.first, update.second, update.gradients))
        in_c = (ctypes.c_float * len(decays))(*decays), *arrays, *map(ctypes.c_float, values)
        self._functions.adamw(*_sizes(update.weights), *in_c)
        update.gradients.clear()
        yield from range(len(decays))


def _sizes(arrays: Arrays) -> tuple[ctypes.c_int64, Any]:
    sizes = [array.size for array in arrays]
    return ctypes.c_int64(len(sizes)), (ctypes.c_int64 * len(sizes))(*sizes)


def _addresses(arrays: Arrays) -> Any:
    """Where the tensors' memory lies: an array of it shares it, and what is written there the next unit reads."""
    found = [array.asnumpy().ctypes.data for array in arrays]
    return (ctypes.c_void_p * len(found))(*found)


_adam: Any = ops.AdamWeightDecay()
_half_square: Any = ops.L2Loss()


class _Operators:
    """By operators of the CPU."""

    def __init__(self, optim: OptimConfig, compiled: CompiledFunctions) -> None:
        beta1, beta2 = optim.betas

        def adamw(lr, eps, decay, scale, weight, first, second, gradient):
            _adam(weight, first, second, lr, beta1, beta2, eps, decay, gradient.reshape(weight.shape) * scale)
            return ops.zeros((1,), ms.float32)

        def half_square(gradient):
            return _half_square(gradient)

        self._optim, self._adamw = optim, compiled.unit(adamw, "optimizer")
        self._half_square = compiled.unit(half_square, "gradient norm")

    def norm(self, gradients: Arrays) -> float:
        return math.sqrt(2 * sum(float(self._half_square(gradient).asnumpy()) for gradient in gradients))

    def update(self, update: Update) -> Iterator[int]:
        lr, eps, decay, scale, none = map(_number, (*astuple(AdamWScalars.of(self._optim, update)), 0.0))
        arrays = zip(update.weights, update.first, update.second, update.gradients, strict=True)
        for number, (decays, of_bucket) in enumerate(zip(update.decayed, arrays, strict=True)):
            self._adamw(lr, eps, decay if decays else none, scale, *of_bucket)
            yield number
        update.gradients.clear()


def _number(value: float) -> ms.Tensor:
    return put(np.array(value, np.float32))
