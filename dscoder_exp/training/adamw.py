"""AdamW with decoupled weight decay (Loshchilov & Hutter, arXiv:1711.05101), a group of weights at a time, in place.

Where replicas share the weights out, of this rank's slices.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import mindspore as ms
import numpy as np
from numpy.typing import NDArray

from dscoder_exp.model.llama import Llama
from dscoder_exp.schema.config import OptimConfig
from dscoder_exp.training.moments import Owned, StoredMoments
from dscoder_exp.training.resume import Resumed
from dscoder_exp.training.update import Numbers, arithmetic_for
from dscoder_exp.training.zero import Zero

T = TypeVar("T")


class AdamW:
    """PyTorch's AdamW: bias-corrected, decay times the learning rate, moments in fp32."""

    def __init__(self, model: Llama, zero: Zero, optim: OptimConfig, resumed: Resumed | None = None) -> None:
        """
        Args:
            zero: what is trained of the model is what `step` writes to.
            resumed: steps were taken before, and left moments; None: none were.
        """
        self._model, self._zero, self._optim = model, zero, optim
        moments = np.empty((2, sum(weight.size for weight in flat(zero.weights))), np.float32)
        first, second = (_cut(row, zero.weights) for row in moments)
        # Memory that is new to a process costs it up to 3 s a GB; that passes while the model is measured.
        if resumed is None:
            fill = partial(moments.fill, 0)
        else:
            stored = StoredMoments(resumed.checkpoint, resumed.state.optimizer, model.config, model.trained_shapes)
            place, arrays = model.mesh.place, (flat(first), flat(second))
            fill = partial(stored.fill, place.tensor_rank, place.tensor, flat(zero.owned), arrays)
        self._filling = ThreadPoolExecutor(1, "moments").submit(fill)
        self._first, self._second = (_tensors(arrays) for arrays in (first, second))
        self._arithmetic = arithmetic_for(optim, model.units)
        self._decayed = [[matrix or optim.decay_norms for matrix in group] for group in zero.matrices]
        self.steps = 0 if resumed is None else resumed.state.step - resumed.state.skipped

    def moments(self) -> Iterator[tuple[Owned, list[NDArray[np.float32]]]]:
        """(a piece of a weight, its first and second moment) of all that this rank owns."""
        self._filling.result()
        for owned, *pair in zip(flat(self._zero.owned), flat(self._first), flat(self._second), strict=True):
            yield owned, [moment.asnumpy() for moment in pair]

    def norm(self, gradients: Sequence[Sequence[ms.Tensor]]) -> float:
        """The global L2 norm over all groups and ranks; what several ranks hold counts once."""
        counted = [
            [gradient for gradient, counts in zip(*pair, strict=True) if counts]
            for pair in zip(gradients, self._zero.counted, strict=True)
        ]
        (total,) = self._model.mesh.sums(self._arithmetic.sum_of_squares([group for group in counted if group]))
        return math.sqrt(total)

    def step(self, gradients: Sequence[Sequence[ms.Tensor]], lr: float, scale: float) -> None:
        """One update with gradients times `scale` (which holds the loss's mean and the clipping)."""
        self._filling.result()
        self.steps += 1
        numbers = Numbers.of(self._optim, self.steps, lr, scale)
        self._arithmetic.update(numbers, self._decayed, self._zero.weights, self._first, self._second, gradients)
        self._zero.gather()


def flat(groups: Iterable[Iterable[T]]) -> list[T]:
    return [item for group in groups for item in group]


def _cut(row: NDArray[np.float32], groups: Sequence[Sequence[ms.Tensor]]) -> list[list[NDArray[np.float32]]]:
    """Arrays of the groups' shapes that share the row's memory."""
    pieces = iter(np.split(row, np.cumsum([weight.size for group in groups for weight in group])[:-1]))
    return [[next(pieces).reshape(weight.shape) for weight in group] for group in groups]


def _tensors(groups: Sequence[Sequence[NDArray[np.float32]]]) -> list[list[ms.Tensor]]:
    """Tensors that share the arrays' memory."""
    return [[ms.Tensor.from_numpy(array) for array in group] for group in groups]
