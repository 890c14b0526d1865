"""A recorded run, as far as it is compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dscoder_exp.tracking.describe import OVERRIDES_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run

FLOPS_TAG = "flops_per_token"  # of training, without attention's scores
PROTOCOL_TAG = "evaluate.protocol"  # scores are comparable where it is the same
PARENT_TAG, SWEEP_TAG, ERROR_TAG = "mlflow.parentRunId", "sweep", "error"
ENDED_BADLY = ("FAILED", "KILLED")


@dataclass(frozen=True)
class ComparedRun:
    """A run of the store.

    Attributes:
        started: seconds since 1970.
        seconds: from start to end; None: it hasn't ended.
        params: the configuration's leaves, as typed on the command line.
        metrics: name -> last value; NaN and infinity as they were logged.
        data: the digest of the rows that it trained on; None: it logged none.
    """

    id: str
    name: str
    status: str
    experiment_id: str
    started: float
    seconds: float | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    data: str | None

    @property
    def parent(self) -> str | None:
        """The id of the sweep's run."""
        return self.tags.get(PARENT_TAG)

    @property
    def is_sweep(self) -> bool:
        """Whether it is a sweep's parent run, which logs no metrics of its own."""
        return self.tags.get(SWEEP_TAG) == "true"

    @property
    def overrides(self) -> list[str]:
        return self.tags.get(OVERRIDES_TAG, "").splitlines()

    @property
    def reason(self) -> str:
        """Why it ended badly: the first line of its error; empty where it didn't, or nothing was recorded."""
        lines = self.tags.get(ERROR_TAG, "").strip().splitlines()
        return lines[0] if lines and self.status in ENDED_BADLY else ""

    @property
    def tokens_per_step(self) -> float:
        """Positions of an optimizer step, padding too; NaN: the params don't say."""
        return self._number("train.global_batch_size") * self._number("seq_length")

    @property
    def flops_per_step(self) -> float:
        """Floating-point operations of an optimizer step; NaN: not recorded."""
        return self.tokens_per_step * _float(self.tags.get(FLOPS_TAG))

    def _number(self, key: str) -> float:
        return _float(self.params.get(key))


def from_mlflow(run: Run) -> ComparedRun:
    """The run with what is compared of it."""
    info, data = run.info, run.data
    return ComparedRun(
        id=info.run_id,
        name=info.run_name or info.run_id,
        status=info.status,
        experiment_id=info.experiment_id,
        started=info.start_time / 1000,
        seconds=None if info.end_time is None else (info.end_time - info.start_time) / 1000,
        params=data.params,
        tags=data.tags,
        metrics=data.metrics,
        data=run.inputs.dataset_inputs[0].dataset.digest if run.inputs and run.inputs.dataset_inputs else None,
    )


def _float(text: str | None) -> float:
    try:
        return float(text or math.nan)
    except ValueError:
        return math.nan
