"""What tasks print about data, training and generation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dscoder_exp.console import Screen
from dscoder_exp.data.prompt_format import NONE_BROUGHT, PromptFormat
from dscoder_exp.data.report import DataReport, Prepared
from dscoder_exp.native.library import library
from dscoder_exp.schema.config import Config, PredictConfig, RuntimeConfig
from dscoder_exp.tasks.commands import EXAMPLE_PROMPT, predict_command, ui_command

if TYPE_CHECKING:  # these import MindSpore, which task=prepare doesn't need
    from dscoder_exp.data.requests import Requests
    from dscoder_exp.generation.answers import Speed
    from dscoder_exp.model.llama import Llama
    from dscoder_exp.training.trainer import Throughput
    from dscoder_exp.weights.resolve import TextSetup

TOO_LONG = "longer than seq_length or the model's context"
MAX_IGNORED = 8  # ignored keys that are printed
MAX_FAULTS = 3  # bad prompts that are printed


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a training run.

    Attributes:
        steps: optimizer steps of the whole run.
        loss_before: eval loss before training, nats; None: no rows were held out.
        loss_after: eval loss after training, nats; None: no rows were held out.
        answers_before: to `train.prompts`, before training.
        answers_after: to `train.prompts`, after training.
    """

    steps: int
    loss_before: float | None
    loss_after: float | None
    answers_before: list[str]
    answers_after: list[str]
    throughput: Throughput
    compile_seconds: float
    checkpoint: Path


def print_data(screen: Screen, prepared: Prepared, prompt_format: PromptFormat) -> None:
    """Print how many rows and packed sequences there are, how full these are, and where they are stored."""
    report = prepared.report
    if report.kind == "text":
        screen.print(
            f"data: {report.rows:,} texts, {report.kept:,} kept ({report.dropped:,} dropped, {report.split:,} split, "
            f"{report.duplicates:,} duplicates, {report.skipped:,} other files skipped)"
        )
    else:
        screen.print(
            f"data: {report.rows:,} rows, {report.kept:,} kept ({report.dropped:,} dropped, "
            f"{report.truncated:,} truncated, "
            f"{report.duplicates:,} duplicates)"
        )
        print_format(lambda line: screen.print(f"      {line}"), prompt_format, "data.template")
        if prompt_format.end_token_id is None:
            screen.print("      it writes no special token after an answer: the model doesn't learn where to stop")
    _print_left_out(screen, report)
    if report.special_texts:
        screen.print(
            f"      {report.special_texts:,} rows hold names of special tokens, which are text "
            "(data.special_tokens=allow: tokens)"
        )
    screen.print(
        f"      {report.sequences:,} training sequences of {report.seq_length:,} tokens, "
        f"{report.useful_fraction:.1%} text, {report.loss_fraction:.1%} counted by the loss; "
        f"{report.eval_sequences:,} held out"
    )
    screen.print(f"      {'found' if prepared.reused else 'written'} in {prepared.directory}")


def print_format(say: Callable[[str], None], prompt_format: PromptFormat, key: str) -> None:
    """Say which prompt format is used and where it comes from; key: the config key that chooses another."""
    if prompt_format.origin == NONE_BROUGHT:
        say(f"prompt format none: {NONE_BROUGHT} ({key} chooses one)")
    else:
        origin = Path(prompt_format.origin).name
        say(f"prompt format {prompt_format.name}" + ("" if origin == prompt_format.name else f", from {origin}"))


def print_tokens(screen: Screen, text: TextSetup, prompt_format: PromptFormat) -> None:
    """Print, on stderr, which tokens are others than the model's files name."""
    for line in text.overrides:
        screen.remark(line)
    end, known = prompt_format.end_token_id, text.stop_token_ids
    if end is not None and known and end not in known:
        screen.remark(
            f"{text.tokenizer.id_to_token(end)} ({end}) ends an answer, too: the prompt format {prompt_format.name} "
            "writes it there, though the model's files don't name it as an end token"
        )


def print_beyond(screen: Screen, text: TextSetup) -> None:
    """Print which special tokens of the tokenizer the model has no embedding for."""
    if text.beyond:
        named = ", ".join(f"{token} {number}" for token, number in text.beyond.items())
        screen.remark(f"tokenizer: not used, since beyond the model's vocabulary: {named}")


def _print_left_out(screen: Screen, report: DataReport) -> None:
    """Print why rows were dropped, and what of the rows nothing is made of."""
    too_long = report.dropped - report.blank - sum(report.bad_rows.values())
    lacking = "without text" if report.kind == "text" else "without a request or an answer"
    if reasons := [f"{count:,} {why}" for count, why in ((report.blank, lacking), (too_long, TOO_LONG)) if count]:
        screen.print(f"      dropped: {', '.join(reasons)}")
    if report.bad_rows:
        screen.print(f"      bad rows dropped: {sum(report.bad_rows.values()):,} (data.bad_rows=drop)")
        for reason, count in report.bad_rows.items():
            screen.print(f"        {count:,}: {reason}")
        screen.print("        the first: " + "\n                   ".join(report.bad_examples))
    if report.ignored:
        things = [f"{thing} in {count:,} rows" for thing, count in report.ignored.items()]
        more = f", and {len(things) - MAX_IGNORED} more (data.json lists them)" if len(things) > MAX_IGNORED else ""
        screen.print(f"      ignored: {', '.join(things[:MAX_IGNORED])}{more}")


def print_kernels(screen: Screen, runtime: RuntimeConfig) -> None:
    """Print whether a CPU run uses the C++ kernels or MindSpore's operators, and why."""
    if runtime.device == "cpu":
        built = library()
        kind = "C++" if built.path else "MindSpore's operators, which take two thirds longer"
        screen.remark(f"kernels: {kind} ({built.why})")


def print_trainable_parameters(screen: Screen, model: Llama) -> None:
    """Print how many parameters are trained, if the model has an adapter."""
    if model.lora is not None:
        trained = sum(sum(bucket.sizes) for bucket in model.masters.buckets)
        parameters = model.config.num_parameters
        screen.print(
            f"adapter: {model.lora}: {trained:,} trainable parameters beside {parameters:,} frozen ones "
            f"({trained / parameters:.2%})"
        )


def print_result(screen: Screen, config: Config, result: TrainingResult) -> None:
    """Print answers and eval loss before and after training, the speed, and commands for the next steps."""
    for prompt, before, after in zip(config.train.prompts, result.answers_before, result.answers_after, strict=True):
        screen.print(f"\n> {prompt}\n\nbefore:\n{_indented(before)}\n\nafter {result.steps} steps:\n{_indented(after)}")
    screen.print()
    if result.loss_before is not None and result.loss_after is not None:
        screen.print(f"eval loss    {result.loss_before:.4f} -> {result.loss_after:.4f} nats a token")
    speed = result.throughput
    if speed.results:  # empty if a resumed run had no steps left
        screen.print(
            f"speed        {speed.per_second('tokens'):.0f} tokens/s in training "
            f"({speed.per_second('useful_tokens'):.0f} of text, "
            f"{speed.per_second('loss_tokens'):.0f} counted by the loss)"
        )
    screen.print(f"compiling    {result.compile_seconds:.1f} s in all")
    screen.print(f"checkpoint   {result.checkpoint}")
    if (model := _model_of(config, result.checkpoint)) is not None:
        screen.print(f"try it       {predict_command(model, next(iter(config.train.prompts), EXAMPLE_PROMPT))}")
    if config.tracking.enabled:
        screen.print(f"see the run  {ui_command(config.tracking.uri)}")


def _model_of(config: Config, checkpoint: Path) -> dict[str, str] | None:
    """The keys that name the trained model, and their values; None for an adapter on random weights, never saved."""
    if config.adapter.type == "none":
        return {"model.path": str(checkpoint)}
    return {"model.path": config.model.path, "adapter.path": str(checkpoint)} if config.model.path else None


def print_requests(screen: Screen, requests: Requests) -> None:
    """Print, on stderr, which rows of predict.input were left out."""
    if faults := requests.faults:
        screen.remark(f"bad rows left out: {len(faults):,} of {len(faults) + len(requests.rows):,} (predict.skip_bad)")
        for fault in faults[:MAX_FAULTS]:
            screen.remark(f"  {fault}")


def print_sampling(screen: Screen, predict: PredictConfig) -> None:
    """Print, on stderr, which keys of sampling have no effect."""
    given = [name for name in ("top_k", "top_p", "min_p") if getattr(predict, name) is not None]
    given += ["num_samples"] if predict.num_samples > 1 else []
    if given and predict.temperature == 0:
        keys = ", ".join(f"predict.{name}" for name in given)
        screen.remark(f"no effect: {keys}; predict.temperature=0 takes the likeliest token (1.0: sampling)")


def print_speed(screen: Screen, speed: Speed) -> None:
    """Print the speed of generation, on stderr."""
    answers = f"{speed.answers} answers, " if speed.answers > 1 else ""
    screen.remark(
        f"{answers}{speed.tokens} tokens, {speed.tokens_per_s:.1f} tokens/s; "
        f"first token after {speed.first_token_s:.2f} s "
        f"({speed.prefill_tokens_per_s:.0f} tokens/s of the prompt's {speed.prompt_tokens})"
    )


def lineage_of(config: Config, prepared: Prepared, prompt_format: PromptFormat) -> dict[str, Any]:
    """The origin of a checkpoint's weights, to be stored in it."""
    return {
        "base": config.model.path or f"random weights of seed {config.seed}",
        "data": config.data.source,
        "data_fingerprint": prepared.report.fingerprint,
        "prompt_format": prompt_format.name,
        "prompt_format_origin": prompt_format.origin,
        "run_id": config.tracking.run_id,
    }


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines())
