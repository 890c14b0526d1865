"""AdamW with decoupled weight decay (Loshchilov & Hutter, arXiv:1711.05101) over buckets of weights, in place.

On Ascend one fused operator a bucket computes it; on the CPU C++ that was compiled for it, or without a compiler
MindSpore's AdamWeightDecay (2.10.0), which runs on one thread, at 6 GB/s. Each replica updates only its slice of each
bucket's fp32 master weights (ZeRO-1).
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

Arrays = Sequence[ms.Tensor]  # one a bucket: fp32, this rank's slice, Bucket.length(replicas) elements


@dataclass(frozen=True)
class Update:
    """Arguments of one AdamW step over all buckets.

    Attributes:
        step: number of the update, counted from 1, for bias correction.
        lr: learning rate of the step.
        scale: factor that gradients are multiplied with: clipping / (Gradients.factor x counted labels).
        decayed: for each bucket, whether weight decay applies to it.
        weights: master weights, updated in place.
        first, second: moments, updated in place.
        gradients: emptied as they are used: on Ascend their memory is then free for the bf16 copies that are gathered.
    """

    step: int
    lr: float
    scale: float
    decayed: Sequence[bool]
    weights: Arrays
    first: Arrays
    second: Arrays
    gradients: list[ms.Tensor]


class AdamWBackend(Protocol):
    """What computes AdamW's updates and the gradient norm on a device."""

    def norm(self, gradients: Arrays) -> float:
        """The L2 norm over all arrays together."""
        ...

    def update(self, update: Update) -> Iterator[int]:
        """Update all buckets; yields each one's index once it is updated, or its update is launched on the device."""
        ...


def select_backend(optim: OptimConfig, compiled: CompiledFunctions) -> AdamWBackend:
    """The fused operator on Ascend; on the CPU C++, or MindSpore's operators where it couldn't be compiled."""
    if compiled.device != "cpu":
        return _FusedBackend(optim)
    path = library().path
    return _OperatorBackend(optim, compiled) if path is None else _CppBackend(optim, path)


class _FusedBackend:
    """Ascend's fused AdamW operator, which takes scalars as they are: a new learning rate compiles nothing."""

    def __init__(self, optim: OptimConfig) -> None:
        self._optim, self._adamw = optim, cast(Callable[..., Any], FusedAdamW())

    def norm(self, gradients: Arrays) -> float:
        if not gradients:  # other tensor ranks hold the same slices, and count them
            return 0.0
        norms = mint.stack([mint.linalg.vector_norm(gradient) for gradient in gradients])
        return math.sqrt(np.square(fetch(norms).astype(np.float64)).sum())

    def update(self, update: Update) -> Iterator[int]:
        """The operator adds 1 to its step argument (hicann/ops-nn, apply_adam_w_v2_fp.h), so it gets `step` - 1."""
        (beta1, beta2), eps = self._optim.betas, self._optim.eps
        (step,) = put_all(np.array([update.step - 1], np.float32))
        for number, decays in enumerate(update.decayed):
            weight, first, second = (arrays[number] for arrays in (update.weights, update.first, update.second))
            gradient = update.gradients.pop(0).mul_(update.scale).view(weight.shape)
            decay = self._optim.weight_decay if decays else 0.0
            # The fourth argument is AMSGrad's maximum, unused since amsgrad is False.
            arrays = weight, first, second, second, gradient, step
            self._adamw(*arrays, update.lr, beta1, beta2, decay, eps, False, False)
            yield number


@dataclass(frozen=True)
class AdamWScalars:
    """Scalars of one step for kernels without bias correction, which `lr`, `eps` and `decay` already contain.

    lr m / c1 / (sqrt(v / c2) + eps) = (lr sqrt(c2) / c1) m / (sqrt(v) + eps sqrt(c2)), where c1 = 1 - beta1^t and
    c2 = 1 - beta2^t; the decay is divided by the factor that the learning rate was multiplied with, sqrt(c2) / c1.
    """

    lr: float
    eps: float
    decay: float  # decay * lr is AdamW's lr * weight_decay
    scale: float  # factor that gradients are multiplied with

    @classmethod
    def of(cls, optim: OptimConfig, update: Update) -> "AdamWScalars":
        beta1, beta2 = optim.betas
        root = math.sqrt(1 - beta2**update.step)
        ratio = root / (1 - beta1**update.step)
        return cls(update.lr * ratio, optim.eps * root, optim.weight_decay / ratio, update.scale)


class _CppBackend:
    """The C++ functions of native/optimizer.cc, on all threads of the CPU."""

    def __init__(self, optim: OptimConfig, path: Path) -> None:
        self._optim, self._functions = optim, ctypes.CDLL(str(path))  # CDLL releases the GIL during a call
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
    """C array of the addresses of the tensors' memory, where C++ reads and writes."""
    addresses = [array.asnumpy().ctypes.data for array in arrays]
    return (ctypes.c_void_p * len(addresses))(*addresses)


_adam: Any = ops.AdamWeightDecay()
_half_square: Any = ops.L2Loss()


class _OperatorBackend:
    """MindSpore's CPU operators, compiled once for all steps."""

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
        lr, eps, decay, scale, zero = map(_scalar, (*astuple(AdamWScalars.of(self._optim, update)), 0.0))
        arrays = zip(update.weights, update.first, update.second, update.gradients, strict=True)
        for number, (decays, of_bucket) in enumerate(zip(update.decayed, arrays, strict=True)):
            self._adamw(lr, eps, decay if decays else zero, scale, *of_bucket)
            yield number
        update.gradients.clear()


def _scalar(value: float) -> ms.Tensor:
    return put(np.array(value, np.float32))


class AdamW:
    """AdamW as in PyTorch (bias-corrected, decay times the learning rate), with fp32 moments of this rank's slices.

    Attributes:
        steps: updates done; skipped steps don't count.
    """

    def __init__(self, model: Llama, optim: OptimConfig, resumed: Resumed | None = None) -> None:
        """
        Args:
            resumed: the checkpoint whose moments and step count are continued; None: moments start at zero.
        """
        self._masters, self._topology = model.masters, model.mesh.topology
        self._stored = resumed and StoredMoments(
            resumed.checkpoint, resumed.state.optimizer, model.config, model.trained_shapes
        )
        lengths = [bucket.length(model.mesh.replica_group.size) for bucket in self._masters.buckets]
        # First touching new memory takes up to 3 s a GB. On the CPU a thread does it while the model is evaluated.
        self._filling: Future[None] | None = None
        if model.compiled.device == "cpu":
            arrays = [np.split(row, np.cumsum(lengths)[:-1]) for row in np.empty((2, sum(lengths)), np.float32)]
            pairs = list(zip(*arrays, strict=True))
            moments = [[put(moment) for moment in pair] for pair in pairs]
            self._filling = ThreadPoolExecutor(1, "moments").submit(self._fill_all, pairs)
        elif self._stored is None:
            moments = [[mint.zeros((length,), dtype=ms.float32) for _ in range(2)] for length in lengths]
        else:
            moments = [self._read_bucket(number, length) for number, length in enumerate(lengths)]
        self._first, self._second = (list(of_buckets) for of_buckets in zip(*moments, strict=True))
        self._backend = select_backend(optim, model.compiled)
        self._decayed = [bucket.matrices or optim.decay_norms for bucket in self._masters.buckets]
        self.steps = 0 if resumed is None else resumed.state.step - resumed.state.skipped

    def moments(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """The first and second moment of each shard of a weight that this rank owns, in the order of `masters.owned`.

        Flat fp32 arrays; a bucket is fetched from the device when its first shard is asked for.
        """
        self._wait_filled()
        for number in range(len(self._masters.buckets)):
            first, second = (self._masters.split(number, fetch(of[number])) for of in (self._first, self._second))
            yield from zip(first, second, strict=True)

    def norm(self, gradients: Sequence[ms.Tensor]) -> float:
        """The L2 norm of this rank's slices; slices that several tensor ranks hold count on the first of them alone."""
        return self._backend.norm(
            [gradient for gradient, counts in zip(gradients, self._masters.counted, strict=True) if counts]
        )

    def step(self, gradients: list[ms.Tensor], lr: float, scale: float) -> None:
        """Update the master weights with `gradients` times `scale`, and start gathering the model's weights from them.

        Args:
            gradients: this rank's fp32 slice of each bucket, summed over ranks; the list is emptied.
            scale: makes the summed loss's gradients those of the mean, unscaled and clipped.
        """
        self._wait_filled()
        self.steps += 1
        arrays = self._masters.slices, self._first, self._second, gradients
        for number in self._backend.update(Update(self.steps, lr, scale, self._decayed, *arrays)):
            self._masters.start_gather(number)

    def _fill_all(self, pairs: Sequence[Sequence[NDArray[np.float32]]]) -> None:
        for number, pair in enumerate(pairs):
            self._fill(number, pair)

    def _fill(self, number: int, pair: Sequence[NDArray[np.float32]]) -> None:
        """Write a resumed run's moments, or zeros, into a bucket's two arrays."""
        for moment in pair:
            moment.fill(0)
        if self._stored is not None:
            arrays = [self._masters.split(number, moment) for moment in pair]
            self._stored.fill(self._topology.tensor_rank, self._topology.tensor, self._masters.shards(number), arrays)

    def _read_bucket(self, number: int, length: int) -> list[ms.Tensor]:
        """A resumed run's two moments of one bucket, on the device."""
        pair = [np.empty(length, np.float32) for _ in range(2)]
        self._fill(number, pair)
        return [put(moment) for moment in pair]

    def _wait_filled(self) -> None:
        if self._filling is not None:
            self._filling.result()
