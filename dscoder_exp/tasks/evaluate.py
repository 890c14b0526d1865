"""task=evaluate: how many problems of a suite a model solves, or its loss on rows; completions need no model."""

from dscoder_exp.console import Screen
from dscoder_exp.evaluation.given import score_given
from dscoder_exp.evaluation.report import comparison_of, publish
from dscoder_exp.schema.config import LOSS, Config
from dscoder_exp.tasks.evaluation_summary import print_evaluation
from dscoder_exp.tracking.run import open_run


def run(config: Config) -> float | None:
    """Evaluate; returns pass@1, or the loss, a sweep's objective."""
    if config.evaluate.completions is None:
        from dscoder_exp.tasks.evaluate_model import evaluate_loss, evaluate_suite  # these import MindSpore

        return evaluate_loss(config) if config.evaluate.suite == LOSS else evaluate_suite(config)
    screen = Screen(quiet=False)
    with open_run(config.tracking, config.output_dir, 0) as run:
        evaluation = score_given(config, screen, lambda evaluation: publish(run, evaluation, config))
    print_evaluation(screen, config, evaluation, comparison_of(evaluation, config))
    return evaluation.score.pass_at_1
