"""What task=evaluate prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dscoder_exp.console import Screen
from dscoder_exp.evaluation.results import PAGE, RESULTS, Evaluation
from dscoder_exp.evaluation.scores import CONFIDENCE, Comparison, Score
from dscoder_exp.evaluation.suites import Suite
from dscoder_exp.schema.config import Config
from dscoder_exp.tasks.commands import ui_command

if TYPE_CHECKING:
    from dscoder_exp.evaluation.loss_data import LossData
    from dscoder_exp.evaluation.prompts import Prompts

MAX_FAILING = 3  # reference solutions that are named


def print_asked(screen: Screen, suite: Suite, prompts: Prompts) -> None:
    """Print, on stderr, which problems are evaluated, and how the model is asked."""
    of_all = f" of {suite.total}" if len(suite.problems) < suite.total else ""
    shown = f", {len(suite.examples)} more as examples" if suite.examples else ""
    screen.remark(f"{suite.name}: {len(suite.problems)}{of_all} problems{shown}")
    if prompts.form == "instruct":
        named = f"{prompts.prompt_format.name} from {Path(prompts.prompt_format.origin).name}"
        screen.remark(f"asked in instruct form, with the prompt format {named}")
        return
    why = ", since the model's files bring no prompt format"
    unused = f" (evaluate.prompt=instruct: with {prompts.unused}, of model.template)" if prompts.unused else ""
    screen.remark(f"asked in completion form{why if prompts.unused else ''}{unused}")


def print_evaluation(screen: Screen, config: Config, evaluation: Evaluation, comparison: Comparison | None) -> None:
    """Print the score with its interval, the verdicts, the comparison, and where the results are."""
    score, directory = evaluation.score, Path(config.evaluate.output)
    _print_failing(screen, evaluation)
    interval = f"{CONFIDENCE:.0%} interval {score.low:.1%} to {score.high:.1%}"
    screen.print(f"pass@1       {score.pass_at_1:.1%} ({_number(score.solved)} of {score.problems}), {interval}")
    if score.pass_at_k is not None:
        screen.print(f"{f'pass@{score.k}':<12} {score.pass_at_k:.1%}")
    screen.print(f"verdicts     {', '.join(f'{count} {verdict}' for verdict, count in evaluation.verdicts.items())}")
    if comparison is not None:
        screen.print(
            f"baseline     {comparison.only_this} problems solved here alone, {comparison.only_baseline} there alone: "
            f"p = {comparison.p:.2g} (McNemar's exact test)"
        )
    if evaluation.tokens_per_s is not None:
        screen.print(f"speed        {evaluation.tokens_per_s:.1f} tokens/s")
    screen.print(f"sandbox      {evaluation.isolation}")
    screen.print(f"protocol     {evaluation.protocol.hash} (scores of other protocols can't be ranked with this one)")
    screen.print(f"results      {directory / RESULTS}, {directory / PAGE}")
    if config.tracking.enabled:
        screen.print(f"see the run  {ui_command(config.tracking.uri)}")


def print_scores(screen: Screen, config: Config, scores: Mapping[int, Score]) -> None:
    """Print the scores of a training run's checkpoints, by step."""
    for number, (step, score) in enumerate(scores.items()):
        interval = f"{CONFIDENCE:.0%} interval {score.low:.1%} to {score.high:.1%}"
        title = f"{config.train.evaluate}" if number == 0 else ""
        screen.print(f"{title:<12} step {step}: pass@1 {score.pass_at_1:.1%} of {score.problems} problems, {interval}")


def print_loss(screen: Screen, config: Config, loss: float, data: LossData) -> None:
    """Print the loss, and of which rows it is."""
    report = data.prepared.report
    dropped = f"; {report.dropped:,} dropped, which are too long, bad or blank" if report.dropped else ""
    screen.print(f"loss         {loss:.4f} nats a token")
    screen.print(f"rows         {data.rows:,} ({data.which}), {data.tokens:,} tokens counted{dropped}")
    screen.print(f"prompts      {report.prompt_format}")
    if config.tracking.enabled:
        screen.print(f"see the run  {ui_command(config.tracking.uri)}")


def _print_failing(screen: Screen, evaluation: Evaluation) -> None:
    failing = list(evaluation.failing.items())
    if failing:
        screen.print(f"references   {len(failing)} of the suite's own solutions don't pass here:")
        for key, message in failing[:MAX_FAILING]:
            screen.print(f"             {key}: {message.splitlines()[0]}")


def _number(solved: float) -> str:
    return f"{solved:g}" if solved == int(solved) else f"{solved:.1f}"
