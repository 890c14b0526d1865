"""The words that a task ends with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dscoder_exp.console import Screen
from dscoder_exp.data.report import Prepared
from dscoder_exp.native.library import library
from dscoder_exp.schema.config import Config, RuntimeConfig
from dscoder_exp.tasks.commands import PROMPT, predict_command, ui_command

if TYPE_CHECKING:  # they import MindSpore, which converting weights doesn't need
    from dscoder_exp.generation.answers import Answer
    from dscoder_exp.model.llama import Llama
    from dscoder_exp.training.trainer import Throughput


@dataclass(frozen=True)
class TrainingResult:
    """What a training run comes to; a loss is None where no rows were held out."""

    steps: int
    loss_before: float | None
    loss_after: float | None
    answers_before: list[str]
    answers_after: list[str]
    throughput: Throughput
    compile_seconds: float
    checkpoint: Path


def say_data(screen: Screen, prepared: Prepared, template: str | None) -> None:
    """One paragraph: rows, sequences, how full they are, where they lie."""
    report = prepared.report
    if report.kind == "text":
        screen.say(
            f"data: {report.rows:,} texts, {report.kept:,} kept ({report.dropped:,} dropped, {report.split:,} split, "
            f"{report.duplicates:,} duplicates, {report.skipped:,} other files skipped)"
        )
    else:
        screen.say(
            f"data: {report.rows:,} rows, {report.kept:,} kept ({report.dropped:,} dropped, "
            f"{report.truncated:,} truncated, "
            f"{report.duplicates:,} duplicates), prompt format {template or 'none (bare text)'}"
        )
    screen.say(
        f"      {report.sequences:,} training sequences of {report.seq_length:,} tokens, "
        f"{report.useful_fraction:.1%} text, {report.loss_fraction:.1%} counted by the loss; "
        f"{report.eval_sequences:,} held out"
    )
    screen.say(f"      {'found' if prepared.reused else 'written'} in {prepared.directory}")


def say_kernels(screen: Screen, runtime: RuntimeConfig) -> None:
    """What computes on a CPU, and why."""
    if runtime.device == "cpu" and runtime.precision == "fp32":
        built = library()
        kind = "C++" if built.path else "MindSpore's operators, which take two thirds longer"
        screen.remark(f"kernels: {kind} ({built.why})")


def say_trained(screen: Screen, model: Llama) -> None:
    """How much of the model is trained, where it isn't all of it."""
    if model.lora is not None:
        trained = sum(sum(bucket.sizes) for bucket in model.masters.buckets)
        parameters = model.config.num_parameters
        screen.say(
            f"adapter: {model.lora}: {trained:,} values are trained beside {parameters:,} ({trained / parameters:.2%})"
        )


def say_result(screen: Screen, config: Config, result: TrainingResult) -> None:
    """What was learnt, how fast, and what to type next."""
    for prompt, before, after in zip(config.train.prompts, result.answers_before, result.answers_after, strict=True):
        screen.say(f"\n> {prompt}\n\nbefore:\n{_indented(before)}\n\nafter {result.steps} steps:\n{_indented(after)}")
    screen.say()
    if result.loss_before is not None and result.loss_after is not None:
        screen.say(f"eval loss    {result.loss_before:.4f} -> {result.loss_after:.4f} nats a token")
    speed = result.throughput
    if speed.results:  # a run that went on may have been through already
        screen.say(
            f"speed        {speed.per_second('tokens'):.0f} tokens/s in training "
            f"({speed.per_second('useful_tokens'):.0f} of text, "
            f"{speed.per_second('loss_tokens'):.0f} counted by the loss)"
        )
    screen.say(f"compiling    {result.compile_seconds:.1f} s in all")
    screen.say(f"checkpoint   {result.checkpoint}")
    if (model := _model_of(config, result.checkpoint)) is not None:
        screen.say(f"try it       {predict_command(*model, prompt=next(iter(config.train.prompts), PROMPT))}")
    if config.tracking.enabled:
        screen.say(f"see the run  {ui_command(config.tracking.uri)}")


def _model_of(config: Config, checkpoint: Path) -> list[str] | None:
    """The overrides that name what was trained; None for an adapter beside random weights, which no path leads to."""
    if config.adapter.type == "none":
        return [f"model.path={checkpoint}"]
    return [f"model.path={config.model.path}", f"adapter.path={checkpoint}"] if config.model.path else None


def say_speed(screen: Screen, answer: Answer) -> None:
    """Of a prediction, beside the answer and not in it."""
    screen.remark(
        f"{answer.tokens} tokens, {answer.tokens_per_s:.1f} tokens/s; first token after {answer.first_token_s:.2f} s "
        f"({answer.prefill_tokens_per_s:.0f} tokens/s of the prompt's {answer.prompt_tokens})"
    )


def lineage_of(config: Config, prepared: Prepared) -> dict[str, Any]:
    """Where a checkpoint's weights come from, for its own record."""
    return {
        "base": config.model.path or f"random weights of seed {config.seed}",
        "data": config.data.source,
        "data_fingerprint": prepared.report.fingerprint,
        "run_id": config.tracking.run_id,
    }


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines())
