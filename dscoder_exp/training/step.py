"""One optimizer step: micro batches in, updated weights and what was measured out."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mindspore as ms
import numpy as np

from dscoder_exp.data.batch import Batch
from dscoder_exp.device.memory import fetch
from dscoder_exp.model.llama import Llama
from dscoder_exp.schema.config import OptimConfig
from dscoder_exp.training.gradients import Backpropagation, Gradients, Reduction
from dscoder_exp.training.loss_scale import LossScale
from dscoder_exp.training.optimizer import AdamW
from dscoder_exp.training.resume import Resumed

MOST_IN_A_ROW = 3
CLIP_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_


@dataclass(frozen=True)
class StepResult:
    """Of all ranks together."""

    loss: float  # mean over the step's counted tokens, nats
    grad_norm: float  # before clipping
    lr: float
    seconds: float  # without those of compiling
    compile_seconds: float
    tokens: int  # positions, padding too
    useful_tokens: int  # positions that aren't padding
    loss_tokens: int  # positions that the loss counts
    skipped_steps: int  # of the run so far: their loss or gradient was no number, and they changed nothing
    loss_scale: float  # that the step was taken with
    stop: bool  # a rank was asked to stop


class NotFinite(FloatingPointError):
    """Too many steps in a row whose loss or gradient is no number.

    Attributes:
        gradients: names of the tensors whose gradient, in the last one, holds NaN or infinity on any rank.
        batches: this rank's micro batches of it.
    """

    def __init__(self, what: str, gradients: Sequence[str], batches: Sequence[Batch]) -> None:
        super().__init__(f"{what}: lower optim.lr, or look at the data")
        self.gradients, self.batches = gradients, batches


class Step:
    """Gradients, their sum over replicas, clipping, AdamW.

    Attributes:
        done: optimizer steps that were taken, before a resumption too, and those that were skipped.
        skipped: those whose loss or gradient was no number.
        adamw, loss_scale: their states are what a checkpoint holds of this.
    """

    def __init__(
        self,
        model: Llama,
        optim: OptimConfig,
        *,
        recompute: str,
        seed: int = 0,
        resumed: Resumed | None = None,
        before_update: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            seed: of the dropout of LoRA's inputs.
            resumed: what AdamW and the loss scale go on from.
            before_update: called before weights and moments change; until it returns, others may read them.
        """
        assert model.masters.buckets, "a frozen model is not trained"
        self._backpropagation = Backpropagation(model, recompute)
        self._reduction, self._masters = Reduction(model), model.masters
        self.adamw = AdamW(model, optim, resumed)
        self.loss_scale = LossScale(model.precision, resumed and resumed.state.loss_scale)
        self._clip_norm = optim.clip_norm
        self._before_update = before_update
        self._seed, self._mesh, self._compiled = seed, model.mesh, model.compiled
        self.done, self.skipped = (resumed.state.step, resumed.state.skipped) if resumed else (0, 0)
        self._in_a_row = 0

    def __call__(self, batches: Sequence[Batch], lr: float, *, stop: Callable[[], bool] = lambda: False) -> StepResult:
        """
        Args:
            batches: this data rank's micro batches; each token counts alike, whichever batch it is in.
            stop: whether this process was asked to stop.

        Raises:
            NotFinite: the loss or its gradient is not a number for the third time in a row. Such a step leaves the
                weights and the moments as they were.
            Exception: what `before_update` raises, before anything has changed.
        """
        started, compiled = time.perf_counter(), self._compiled.compile_seconds
        tokens = sum(batch.ids.size for batch in batches)
        scale = self.loss_scale.value
        factor = self.loss_scale.factor(tokens)
        total, gradients = self._gradients(batches, factor)
        useful, topology = sum(batch.useful_tokens for batch in batches), self._mesh.topology
        counts = (total.loss_tokens, tokens, useful) if topology.counts else (0, 0, 0)
        own_loss = float(fetch(total.loss)[0]) if topology.tensor_rank == 0 else 0.0
        squares = self.adamw.norm(gradients) ** 2
        loss, counted, tokens, useful, asked, squares = self._mesh.sums(own_loss, *counts, float(stop()), squares)
        factor *= counted
        norm = math.sqrt(squares) / factor
        if math.isfinite(loss) and math.isfinite(norm):
            self._in_a_row = 0
            clip = 1.0 if self._clip_norm is None else min(1.0, self._clip_norm / (norm + CLIP_EPS))
            self._before_update()
            self.adamw.step(gradients, lr, clip / factor)
            self.loss_scale.succeed()
        elif math.isfinite(loss) and self.loss_scale.overflow():
            self.skipped += 1
        else:
            self._in_a_row += 1
            if self._in_a_row == MOST_IN_A_ROW:
                what = f"loss {loss / counted}, gradient norm {norm} in {MOST_IN_A_ROW} steps in a row"
                raise NotFinite(what, self._not_finite(gradients), batches)
            self.skipped += 1
            loss = math.nan  # where only the gradient was lost, it is no number to believe either
        self.done += 1
        compiling = self._compiled.compile_seconds - compiled
        seconds = time.perf_counter() - started - compiling
        counts = int(tokens), int(useful), int(counted)
        return StepResult(loss / counted, norm, lr, seconds, compiling, *counts, self.skipped, scale, stop=asked > 0)

    def _gradients(self, batches: Sequence[Batch], factor: float) -> tuple[Gradients, list[ms.Tensor]]:
        """Of all micro batches, summed over ranks: this rank's slices. A bucket's sum begins as soon as it can."""
        total, topology = self._backpropagation.start(factor), self._mesh.topology
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            key = self._seed, self.done, number, topology.replica
            self._backpropagation.add(total, batch, key, self._begin(total) if last else None)
        return total, self._reduction.finish()

    def _begin(self, total: Gradients) -> Callable[[int], None]:
        return lambda number: self._reduction.start(number, total.sums.pop(number))

    def _not_finite(self, gradients: Sequence[ms.Tensor]) -> list[str]:
        """Names of the tensors in whose gradients, this rank's slices, there is NaN or infinity on any rank."""
        masters = self._masters
        found = {name: 0 for bucket in masters.buckets for name in bucket.names}
        for number, gradient in enumerate(gradients):
            for owned, part in zip(masters.shards(number), masters.split(number, fetch(gradient)), strict=True):
                found[owned.name] = int(not np.isfinite(part).all())
        return [name for name, ranks in zip(found, self._mesh.sums(*found.values()), strict=True) if ranks]
