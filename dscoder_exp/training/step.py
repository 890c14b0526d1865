"""One optimizer step: from micro batches to updated weights and the step's metrics."""

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

MAX_NON_FINITE_STEPS = 3  # in a row; the last of them raises NotFinite
CLIP_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_


@dataclass(frozen=True)
class StepResult:
    """Metrics of one step. Losses, norms and counts are over all ranks, times are this rank's."""

    loss: float  # mean over the step's counted labels, nats; not finite in a skipped step, unless fp16 overflowed
    grad_norm: float  # global L2 norm of the mean loss's gradient, before clipping
    lr: float
    seconds: float  # without compile_seconds
    compile_seconds: float
    tokens: int  # positions, padding included
    useful_tokens: int  # positions that aren't padding
    loss_tokens: int  # labels that the loss counts
    skipped_steps: int  # of the run so far: their loss or gradient wasn't finite, so they changed nothing
    loss_scale: float  # LossScale.value during the step
    stop: bool  # a rank was asked to stop


class NotFinite(FloatingPointError):
    """The loss or its gradient was NaN or infinite in too many steps in a row.

    Attributes:
        gradients: names of the tensors whose gradient holds NaN or infinity on any rank, in the last of these steps.
        batches: this rank's micro batches of that step.
    """

    def __init__(self, what: str, gradients: Sequence[str], batches: Sequence[Batch]) -> None:
        super().__init__(f"{what}: lower optim.lr, or look at the data")
        self.gradients, self.batches = gradients, batches


class Step:
    """An optimizer step: gradients of micro batches, their sum over ranks, clipping, AdamW.

    Attributes:
        done: steps done since the start of the run, before a resume and skipped ones included.
        skipped: steps that changed nothing, because their loss or gradient wasn't finite.
        adamw, loss_scale: the state that a checkpoint saves.
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
            recompute: "none", "selective" or "full"; see Backpropagation.
            seed: seed of the dropout of LoRA's inputs.
            resumed: the checkpoint whose optimizer state and step counts are continued; None: a new run.
            before_update: called before weights and moments change; until it returns, another thread may read them.
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
        self._non_finite_in_a_row = 0

    def __call__(self, batches: Sequence[Batch], lr: float, *, stop: Callable[[], bool] = lambda: False) -> StepResult:
        """Take one step. One whose loss or gradient isn't finite leaves the weights and moments as they were.

        Args:
            batches: this data rank's micro batches. The loss is the mean over the labels of all of them.
            lr: learning rate of the step.
            stop: True once this process was asked to stop.

        Raises:
            NotFinite: for the third step in a row the loss isn't finite, or its gradient isn't and there is no smaller
                loss scale to try (fp16 tries them down to 1).
            Exception: what `before_update` raises, before anything has changed.
        """
        started, compiled = time.perf_counter(), self._compiled.compile_seconds
        tokens = sum(batch.ids.size for batch in batches)
        scale = self.loss_scale.value
        factor = self.loss_scale.factor(tokens)
        total, gradients = self._gradients(batches, factor)
        useful, topology = sum(batch.useful_tokens for batch in batches), self._mesh.topology
        counts = (total.loss_tokens, tokens, useful) if topology.counts_batch else (0, 0, 0)
        own_loss = float(fetch(total.loss)[0]) if topology.tensor_rank == 0 else 0.0
        squares = self.adamw.norm(gradients) ** 2
        loss, counted, tokens, useful, stops, squares = self._mesh.sums(own_loss, *counts, float(stop()), squares)
        factor *= counted
        norm = math.sqrt(squares) / factor
        if math.isfinite(loss) and math.isfinite(norm):
            self._non_finite_in_a_row = 0
            clip = 1.0 if self._clip_norm is None else min(1.0, self._clip_norm / (norm + CLIP_EPS))
            self._before_update()
            self.adamw.step(gradients, lr, clip / factor)
            self.loss_scale.record_finite()
        elif math.isfinite(loss) and self.loss_scale.record_overflow():
            self.skipped += 1
        else:
            self._non_finite_in_a_row += 1
            if self._non_finite_in_a_row == MAX_NON_FINITE_STEPS:
                what = f"loss {loss / counted}, gradient norm {norm} in {MAX_NON_FINITE_STEPS} steps in a row"
                raise NotFinite(what, self._not_finite(gradients), batches)
            self.skipped += 1
            loss = math.nan  # a loss whose gradient isn't finite isn't to be trusted, either
        self.done += 1
        compiling = self._compiled.compile_seconds - compiled
        seconds = time.perf_counter() - started - compiling
        counts = int(tokens), int(useful), int(counted)
        return StepResult(loss / counted, norm, lr, seconds, compiling, *counts, self.skipped, scale, stop=stops > 0)

    def _gradients(self, batches: Sequence[Batch], factor: float) -> tuple[Gradients, list[ms.Tensor]]:
        """Gradients of all micro batches, and this rank's slices of their sums over ranks, fp32, one a bucket.

        The reduction of a bucket starts as soon as the last micro batch's backward pass has completed it.
        """
        total, topology = self._backpropagation.start(factor), self._mesh.topology
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            key = self._seed, self.done, number, topology.replica
            self._backpropagation.add(total, batch, key, self._on_bucket(total) if last else None)
        return total, self._reduction.finish()

    def _on_bucket(self, total: Gradients) -> Callable[[int], None]:
        return lambda number: self._reduction.start(number, total.sums.pop(number))

    def _not_finite(self, gradients: Sequence[ms.Tensor]) -> list[str]:
        """Names of the tensors whose gradient holds NaN or infinity, in the slice of any rank.

        Args:
            gradients: this rank's slice of each bucket.
        """
        masters = self._masters
        found = {name: 0 for bucket in masters.buckets for name in bucket.names}
        for number, gradient in enumerate(gradients):
            for owned, part in zip(masters.shards(number), masters.split(number, fetch(gradient)), strict=True):
                found[owned.name] = int(not np.isfinite(part).all())
        return [name for name, ranks in zip(found, self._mesh.sums(*found.values()), strict=True) if ranks]
