"""AdamW with decoupled weight decay (Loshchilov & Hutter, arXiv:1711.05101) over buckets of weights, in place.

Its arithmetic runs on Ascend by one operator a bucket; on the CPU in C++ where it could be compiled, else by
MindSpore's AdamWeightDecay (2.10.0), which runs on one thread, at 6 GB/s. Where replicas share the weights out, each
updates its slices.
"""

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import mindspore as ms
import numpy as np
from mindspore import mint, ops
from mindspore.ops.auto_generate import AdamW as FusedAdamW
from numpy.typing import NDArray

from dscoder_exp.device.memory import fetch, put, put_all
from dscoder_exp.model.compiled import CompiledFunctions
from dscoder_exp.model.llama import Llama
from dscoder_exp.native.library import library
from dscoder_exp.schema.config import OptimConfig
from dscoder_exp.training.moments import StoredMoments
from dscoder_exp.training.resume import Resumed

Arrays = Sequence[ms.Tensor]  # one a bucket: fp32 [length of the rank's slice]


@dataclass(frozen=True)
class Update:
    """One AdamW step over all buckets.

    Attributes:
        step: number of the step, from 1.
        scale: factor that gradients are multiplied with.
        decayed: for each bucket, whether its weights decay.
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
        """Yields each bucket's index once its update was computed, or was launched on the device."""
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
    """Addresses of the tensors' memory, which compiled functions read and the C++ writes."""
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

        self._optim, self._adamw = optim, compiled.compile(adamw, "optimizer")
        self._half_square = compiled.compile(half_square, "gradient norm")

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


class AdamW:
    """PyTorch's AdamW: bias-corrected, decay times the learning rate, moments in fp32."""

    def __init__(self, model: Llama, optim: OptimConfig, resumed: Resumed | None = None) -> None:
        """
        Args:
            resumed: steps were taken before, and left moments; None: none were.
        """
        self._masters, self._topology = model.masters, model.mesh.topology
        self._stored = resumed and StoredMoments(
            resumed.checkpoint, resumed.state.optimizer, model.config, model.trained_shapes
        )
        lengths = [bucket.length(model.mesh.replica_group.size) for bucket in self._masters.buckets]
        # Memory that is new to a process costs it up to 3 s a GB; on the CPU that passes while the model is measured.
        self._filling: Future[None] | None = None
        if model.compiled.device == "cpu":
            arrays = [np.split(row, np.cumsum(lengths)[:-1]) for row in np.empty((2, sum(lengths)), np.float32)]
            pairs = list(zip(*arrays, strict=True))
            made = [[put(moment) for moment in pair] for pair in pairs]
            self._filling = ThreadPoolExecutor(1, "moments").submit(self._fill_all, pairs)
        elif self._stored is None:
            made = [[mint.zeros((length,), dtype=ms.float32) for _ in range(2)] for length in lengths]
        else:
            made = [self._read(number, length) for number, length in enumerate(lengths)]
        self._first, self._second = (list(moments) for moments in zip(*made, strict=True))
        self._arithmetic = arithmetic_for(optim, model.compiled)
        self._decayed = [bucket.matrices or optim.decay_norms for bucket in self._masters.buckets]
        self.steps = 0 if resumed is None else resumed.state.step - resumed.state.skipped

    def moments(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """The first and second moment of each shard of a weight that this rank owns, in the order of `masters.owned`.

        Flat fp32 arrays; a bucket is fetched from the device when its first shard is asked for.
        """
        self._filled()
        for number in range(len(self._masters.buckets)):
            first, second = (self._masters.split(number, fetch(of[number])) for of in (self._first, self._second))
            yield from zip(first, second, strict=True)

    def norm(self, gradients: Sequence[ms.Tensor]) -> float:
        """The L2 norm of this rank's slices; what several ranks hold counts once."""
        return self._arithmetic.norm(
            [gradient for gradient, counts in zip(gradients, self._masters.counted, strict=True) if counts]
        )

    def step(self, gradients: list[ms.Tensor], lr: float, scale: float) -> None:
        """One update with gradients times `scale` (which holds the loss's mean and the clipping); empties the list."""
        self._filled()
        self.steps += 1
        arrays = self._masters.slices, self._first, self._second, gradients
        for number in self._arithmetic.update(Update(self.steps, lr, scale, self._decayed, *arrays)):
            self._masters.start_gather(number)

    def _fill_all(self, pairs: Sequence[Sequence[NDArray[np.float32]]]) -> None:
        for number, pair in enumerate(pairs):
            self._fill(number, pair)

    def _fill(self, number: int, pair: Sequence[NDArray[np.float32]]) -> None:
        """Write a resumed run's moments, or zeros, into a bucket's arrays."""
        for moment in pair:
            moment.fill(0)
        if self._stored is not None:
            arrays = [self._masters.split(number, moment) for moment in pair]
            self._stored.fill(self._topology.tensor_rank, self._topology.tensor, self._masters.shards(number), arrays)

    def _read(self, number: int, length: int) -> list[ms.Tensor]:
        """One bucket's, a resumed run's, onto the device."""
        pair = [np.empty(length, np.float32) for _ in range(2)]
        self._fill(number, pair)
        return [put(moment) for moment in pair]

    def _filled(self) -> None:
        if self._filling is not None:
            self._filling.result()
