"""The optimizer steps of task=train, with what happens between them: metrics, evaluations, checkpoints, a stop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dscoder_exp.console import Screen
from dscoder_exp.data.batch import Batch
from dscoder_exp.model.llama import Llama
from dscoder_exp.schema.config import Config
from dscoder_exp.tasks.measuring import TrainingEvaluation
from dscoder_exp.tracking.run import Run
from dscoder_exp.tracking.signals import TERMINATED, uninterrupted
from dscoder_exp.training.checkpoints import Checkpoints
from dscoder_exp.training.diagnosis import write_diagnosis
from dscoder_exp.training.loop import Throughput, is_due, metrics_of, take_step
from dscoder_exp.training.state import TrainingState
from dscoder_exp.training.step import NotFinite, Step, StepResult


@dataclass(frozen=True)
class Baseline:
    """Of the model before training; a loss of None: no rows were held out."""

    loss: float | None
    answers: list[str]


class Fitting:
    """Takes the steps that are left."""

    def __init__(
        self,
        config: Config,
        model: Llama,
        step: Step,
        measuring: TrainingEvaluation,
        checkpoints: Checkpoints,
        run: Run,
        screen: Screen,
        *,
        recipe: dict[str, Any],
        before: Baseline,
    ) -> None:
        """
        Args:
            recipe: all that the curve depends on, for those who go on from a checkpoint.
        """
        self._config, self._model, self._step = config, model, step
        self._measuring, self._checkpoints = measuring, checkpoints
        self._mesh, self._run, self._screen = model.mesh, run, screen
        self._recipe, self._before = recipe, before

    def __call__(self, batches: Iterator[Batch], steps: int) -> Throughput:
        """
        Args:
            batches: micro batches, from the first that is left.
            steps: of the whole run.

        Raises:
            NotFinite: as Step does, after a diagnosis was written.
            SystemExit: the process was asked to stop; a checkpoint was saved.
        """
        train, step, throughput = self._config.train, self._step, Throughput()
        with (
            self._screen.stage("training", steps, step.done) as stage,
            uninterrupted() as signals,
            self._checkpoints,
        ):
            while step.done < steps:
                result = self._take(batches, steps, signals)
                self._run.metrics(metrics_of(result, self._mesh.topology.ranks), step.done)
                throughput.add(result)
                speed = throughput.per_second("tokens")
                compiled = f", {result.compile_seconds:.1f} s of compiling" if result.compile_seconds else ""
                stage.advance(f"loss {result.loss:.3f}, lr {result.lr:.2e}, {speed:.0f} tokens/s{compiled}")
                if result.stop:
                    saved = self.save(None, resumable=True)
                    self._checkpoints.wait()
                    self._screen.remark(f"asked to stop: saved as {saved}; train.resume=auto goes on")
                    raise SystemExit(TERMINATED)
                loss = None
                if is_due(train.eval_every, step.done, steps):
                    loss = self._measuring.eval_loss(f"after step {step.done}", step.done)
                if is_due(train.save_every, step.done, steps):
                    self.save(loss, resumable=True)
        return throughput

    def save(self, loss: float | None, *, resumable: bool) -> Path:
        """Begin a checkpoint of the model as it is; returns where it will lie.

        Args:
            loss: its eval loss, where it was measured.
            resumable: with what a run needs to go on from it.
        """
        step, run_id = self._step, self._config.tracking.run_id
        so_far = self._before.loss, self._before.answers, self._run.waiting(), step.loss_scale.state
        state = TrainingState(step.done, step.skipped, self._recipe, run_id, None, None, *so_far, optimizer={})
        return self._checkpoints.save(self._model, step, loss, state if resumable else None)

    def _take(self, batches: Iterator[Batch], steps: int, signals: list[int]) -> StepResult:
        try:
            return take_step(self._step, batches, self._config, steps, stop=lambda: bool(signals))
        except NotFinite as error:
            if self._mesh.topology.rank == 0:
                directory = write_diagnosis(Path(self._config.output_dir), self._model, error, self._step.done + 1)
                self._run.artifact(directory, "diagnosis")
            self._mesh.barrier()  # all came here; the first to fail has the others stopped, whatever they are writing
            raise
