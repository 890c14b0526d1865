"""One optimizer step: micro batches in, updated weights and what was measured out."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dscoder_exp.data.sequences import Batch
from dscoder_exp.model.llama import Llama
from dscoder_exp.parallel.collectives import Sums
from dscoder_exp.parallel.topology import Topology
from dscoder_exp.schema.config import OptimConfig
from dscoder_exp.training.adamw import AdamW
from dscoder_exp.training.gradients import Backpropagation
from dscoder_exp.training.resume import Resumed

CLIP_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_


@dataclass(frozen=True)
class StepResult:
    """Of all ranks together."""

    loss: float  # mean over the step's counted tokens, nats
    grad_norm: float  # before clipping
    lr: float
    seconds: float
    tokens: int  # positions, padding too
    useful_tokens: int  # positions that aren't padding
    loss_tokens: int  # positions that the loss counts
    stop: bool  # a rank was asked to stop


class Step:
    """Gradients, their sum over replicas, clipping, AdamW.

    Attributes:
        adamw: its state is what a run that goes on needs of this.
    """

    def __init__(
        self,
        model: Llama,
        optim: OptimConfig,
        topology: Topology,
        *,
        recompute: str,
        resumed: Resumed | None = None,
    ) -> None:
        """
        Args:
            resumed: what AdamW goes on from.
        """
        self._backpropagation = Backpropagation(model, recompute)
        self.adamw = AdamW(model, optim, resumed)
        self._clip_norm = optim.clip_norm
        self._sums = Sums(topology)

    @property
    def done(self) -> int:
        """Optimizer steps that were taken, before a resumption too."""
        return self.adamw.steps

    def __call__(self, batches: Sequence[Batch], lr: float, *, stop: Callable[[], bool] = lambda: False) -> StepResult:
        """
        Args:
            batches: this rank's micro batches; each token counts alike, whichever batch it is in.
            stop: whether this process was asked to stop.

        Raises:
            FloatingPointError: the loss or its gradient is not a number; the weights are then as before.
        """
        started = time.perf_counter()
        total = self._backpropagation.start()
        for batch in batches:
            self._backpropagation.add(total, batch)
        gradients = [self._sums.tensors(group) for group in total.groups]
        tokens = sum(batch.ids.size for batch in batches)
        useful = sum(batch.useful_tokens for batch in batches)
        own = (total.loss, total.loss_tokens, tokens, useful, float(stop()))
        loss, counted, tokens, useful, asked = self._sums.numbers(*own)
        norm = self.adamw.norm(gradients) / counted
        if not math.isfinite(loss) or not math.isfinite(norm):
            what = f"loss {loss / counted}, gradient norm {norm}"
            raise FloatingPointError(f"{what}: lower optim.lr, or look at the data")
        clip = 1.0 if self._clip_norm is None else min(1.0, self._clip_norm / (norm + CLIP_EPS))
        self.adamw.step(gradients, lr, clip / counted)
        seconds = time.perf_counter() - started
        counts = int(tokens), int(useful), int(counted)
        return StepResult(loss / counted, norm, lr, seconds, *counts, stop=asked > 0)
