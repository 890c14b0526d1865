"""AdamW with decoupled weight decay (Loshchilov & Hutter, arXiv:1711.05101), a bucket of weights at a time, in place.

Where replicas share the weights out, of this rank's slices.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import mindspore as ms
import numpy as np
from mindspore import mint
from numpy.typing import NDArray

from dscoder_exp.device.memory import fetch, put
from dscoder_exp.model.llama import Llama
from dscoder_exp.schema.config import OptimConfig
from dscoder_exp.training.moments import StoredMoments
from dscoder_exp.training.resume import Resumed
from dscoder_exp.training.update import Update, arithmetic_for


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
