"""One optimizer step: micro batches in, updated weights and what was measured out."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from dscoder_exp.data.sequences import Batch
from dscoder_exp.model.llama import Llama
from dscoder_exp.parallel.collectives import Sums
from dscoder_exp.parallel.topology import Topology
from dscoder_exp.schema.config import OptimConfig
from dscoder_exp.training.adamw import AdamW
from dscoder_exp.training.gradients import Backpropagation

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


class Step:
    """Gradients, their sum over replicas, clipping, AdamW."""

    def __init__(self, model: Llama, optim: OptimConfig, topology: Topology, *, recompute: str) -> None:
        self._backpropagation = Backpropagation(model, recompute)
        self._adamw = AdamW(model, optim)
        self._clip_norm = optim.clip_norm
        self._sums = Sums(topology)

    def __call__(self, batches: Sequence[Batch], lr: float) -> StepResult:
        """
        Args:
            batches: this rank's micro batches; each token counts alike, whichever batch it is in.

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
        loss, counted, tokens, useful = self._sums.numbers(total.loss, total.loss_tokens, tokens, useful)
        norm = self._adamw.norm(gradients) / counted
        if not math.isfinite(loss) or not math.isfinite(norm):
            what = f"loss {loss / counted}, gradient norm {norm}"
            raise FloatingPointError(f"{what}: lower optim.lr, or look at the data")
        clip = 1.0 if self._clip_norm is None else min(1.0, self._clip_norm / (norm + CLIP_EPS))
        self._adamw.step(gradients, lr, clip / counted)
        seconds = time.perf_counter() - started
        return StepResult(loss / counted, norm, lr, seconds, int(tokens), int(useful), int(counted))
