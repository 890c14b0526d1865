"""The training loop: optimizer steps, and between them metrics, evaluations, checkpoints and a requested stop."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from dscoder_exp.data.batch import Batch
from dscoder_exp.device.memory import peak_gb
from dscoder_exp.model.llama import Llama
from dscoder_exp.schema.config import Config, TrainConfig
from dscoder_exp.schema.llama import training_flops_per_token
from dscoder_exp.signals import TERMINATED, ends_at_once, uninterrupted
from dscoder_exp.training.checkpoint_scores import CheckpointScores
from dscoder_exp.training.checkpoints import Checkpoints
from dscoder_exp.training.context import JobContext
from dscoder_exp.training.diagnosis import write_diagnosis
from dscoder_exp.training.schedule import learning_rate
from dscoder_exp.training.state import Progress
from dscoder_exp.training.step import NotFinite, Step, StepResult
from dscoder_exp.training.training_evaluation import TrainingEvaluation


@dataclass(frozen=True)
class Baseline:
    """The model before training.

    Attributes:
        loss: eval loss, nats a token; None: no rows are held out.
        answers: its answers to train.prompts.
    """

    loss: float | None
    answers: list[str]


@dataclass
class Throughput:
    """Mean throughput over the steps of this process, without the first one, which compiles."""

    results: list[StepResult] = field(default_factory=list)

    def add(self, result: StepResult) -> None:
        self.results.append(result)

    def per_second(self, name: str) -> float:
        """Mean rate of a StepResult count over all ranks: `name` is tokens, useful_tokens or loss_tokens."""
        steady = self.results[1:] or self.results
        return sum(getattr(result, name) for result in steady) / sum(result.seconds for result in steady)


class Trainer:
    """Takes the remaining optimizer steps of a run."""

    def __init__(
        self,
        job: JobContext,
        model: Llama,
        step: Step,
        evaluation: TrainingEvaluation,
        checkpoints: Checkpoints,
        *,
        recipe: dict[str, Any],
        before: Baseline,
        scores: CheckpointScores | None = None,
    ) -> None:
        """
        Args:
            scores: scores checkpoints every train.evaluate_every steps; None: nothing does.
            recipe: all that the loss curve depends on; each checkpoint records it, to be compared on resume.
            before: the model before training; each checkpoint records it, too.
        """
        self._config, self._model, self._step = job.config, model, step
        self._evaluation, self._checkpoints = evaluation, checkpoints
        self._mesh, self._run, self._screen = job.mesh, job.run, job.screen
        self._recipe, self._before, self._scores = recipe, before, scores

    def __call__(self, batches: Iterator[Batch], steps: int) -> Throughput:
        """Train up to step `steps`; returns the throughput of the steps taken here.

        Args:
            batches: this data rank's micro batches, from the next step's first.
            steps: length of the whole run, steps before a resume included.

        Raises:
            NotFinite: as Step raises it, once OUTPUT_DIR/diagnosis is written.
            SystemExit: the process was asked to stop; a resumable checkpoint is saved. Before the first step is taken
                there is nothing to save, and the process ends at once.
        """
        train, step, throughput = self._config.train, self._step, Throughput()
        signals: list[int] = []
        with self._screen.stage("training", steps, step.done) as stage, ExitStack() as deferring, self._checkpoints:
            while step.done < steps:
                with nullcontext() if throughput.results else ends_at_once():
                    result = self._take_step(batches, steps, signals)
                if not throughput.results:
                    signals = deferring.enter_context(uninterrupted())
                self._run.metrics(metrics_of(result, self._mesh.topology.ranks) | self._usage(result), step.done)
                throughput.add(result)
                speed = throughput.per_second("tokens")
                compiled = f", {result.compile_seconds:.1f} s of compiling" if result.compile_seconds else ""
                stage.advance(f"loss {result.loss:.3f}, lr {result.lr:.2e}, {speed:.0f} tokens/s{compiled}")
                if result.stop:
                    saved = self.save(None, resumable=True)
                    self._checkpoints.wait()
                    self._screen.remark(f"asked to stop: saved as {saved}; train.resume=auto resumes the run")
                    raise SystemExit(TERMINATED)
                loss = None
                if is_due(train.eval_every, step.done, steps):
                    loss = self._evaluation.eval_loss(f"after step {step.done}", step.done)
                scored = self._scores is not None and is_due(train.evaluate_every, step.done, steps)
                if scored or is_due(train.save_every, step.done, steps):
                    saved = self.save(loss, resumable=True)
                    if self._scores is not None and scored:
                        self._checkpoints.wait()
                        self._scores(saved, step.done)
        return throughput

    def _usage(self, result: StepResult) -> dict[str, float]:
        """How much of the devices a step used."""
        usage, peak = {"perf/memory_gb": peak_gb()}, self._config.runtime.peak_tflops
        if peak is not None:
            flops = training_flops_per_token(self._model.config, self._model.lora) * result.tokens
            usage["perf/mfu"] = flops / (result.seconds * self._mesh.topology.ranks * peak * 1e12)
        return usage

    def save(self, loss: float | None, *, resumable: bool) -> Path:
        """Begin to save a checkpoint of the model; returns its directory. See Checkpoints.save.

        Args:
            loss: eval loss after the last step, nats a token; None: it wasn't measured.
            resumable: save the optimizer state and the progress, too.
        """
        return self._checkpoints.save(self._model, self._step, loss, self._progress() if resumable else None)

    def _progress(self) -> Progress:
        step = self._step
        return Progress(
            step=step.done,
            skipped=step.skipped,
            recipe=self._recipe,
            run_id=self._config.tracking.run_id,
            loss_before=self._before.loss,
            answers_before=self._before.answers,
            loss_scale=step.loss_scale.state,
        )

    def _take_step(self, batches: Iterator[Batch], steps: int, signals: list[int]) -> StepResult:
        try:
            return take_step(self._step, batches, self._config, steps, signals)
        except NotFinite as error:
            if self._mesh.topology.rank == 0:
                directory = write_diagnosis(Path(self._config.output_dir), self._model, error, self._step.done + 1)
                self._run.artifact(directory, "diagnosis")
            self._mesh.barrier()  # every rank gets here; the first to exit has the others killed, even while they write
            raise


def total_steps(train: TrainConfig, sequences: int) -> int:
    """Optimizer steps of a run: `max_steps`, or as many as `epochs` passes over `sequences` training sequences take."""
    if train.max_steps is not None:
        return train.max_steps
    return max(1, math.ceil(train.epochs * sequences / train.global_batch_size))


def take_step(
    step: Step, batches: Iterator[Batch], config: Config, steps: int, signals: Sequence[int] = ()
) -> StepResult:
    """Take the next of a run's `steps` optimizer steps.

    Args:
        batches: this data rank's micro batches, from the step's first; config.accumulation_steps of them are consumed.
        signals: signals received so far; if there is one on any rank, the result's `stop` is True on all.
    """
    lr = learning_rate(config.optim, step.done + 1, steps)
    return step(list(islice(batches, config.accumulation_steps)), lr, stop=lambda: bool(signals))


def is_due(every: int | None, step: int, steps: int) -> bool:
    """True every `every` steps, except after the last of `steps`, which evaluates and saves anyway; None: never."""
    return every is not None and step % every == 0 and step != steps


def metrics_of(result: StepResult, ranks: int) -> dict[str, float]:
    """A step's metrics under the names of tracking/metrics.py.

    Args:
        ranks: number of ranks, for the throughput of one device.
    """
    if_not_zero = {
        "train/skipped_steps": result.skipped_steps,
        "train/loss_scale": result.loss_scale if result.loss_scale != 1 else 0,
        "perf/compile_time_s": result.compile_seconds,
    }
    return {name: float(value) for name, value in if_not_zero.items() if value} | {
        "train/loss": result.loss,
        "train/grad_norm": result.grad_norm,
        "train/lr": result.lr,
        "perf/step_time_s": result.seconds,
        "perf/tokens_per_s": result.tokens / result.seconds,
        "perf/tokens_per_s_per_device": result.tokens / result.seconds / ranks,
        "perf/useful_tokens_per_s": result.useful_tokens / result.seconds,
        "perf/loss_tokens_per_s": result.loss_tokens / result.seconds,
    }
