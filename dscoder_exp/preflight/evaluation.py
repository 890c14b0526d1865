"""Checks of what an evaluation reads: the suite, completions, rows, an earlier evaluation, and its own results."""

from pathlib import Path

from dscoder_exp.data.prepare import data_format
from dscoder_exp.evaluation.given import read_given
from dscoder_exp.evaluation.kept_results import KEY, origin_of
from dscoder_exp.evaluation.loss_data import is_prepared, measured_data
from dscoder_exp.evaluation.prompts import make_prompts
from dscoder_exp.evaluation.protocol import GIVEN, Protocol, protocol_of
from dscoder_exp.evaluation.results import RESULTS, refuse_other_protocol
from dscoder_exp.evaluation.sandbox import Sandbox
from dscoder_exp.evaluation.suites import Suite, read_suite
from dscoder_exp.generation.answer_file import output_problem
from dscoder_exp.schema.config import LOSS, Config, DataConfig
from dscoder_exp.schema.errors import Problem
from dscoder_exp.weights.resolve import TextSetup


def evaluated_suite(config: Config) -> str | None:
    """The suite of programs that the task evaluates, if any."""
    if config.task.name == "train":
        return config.train.evaluate
    return config.evaluate.suite if config.task.name == "evaluate" and config.evaluate.suite != LOSS else None


def loss_source(config: Config) -> DataConfig | None:
    """The rows whose loss the task measures; None: none, or they were prepared already."""
    is_loss = config.task.name == "evaluate" and config.evaluate.suite == LOSS
    return measured_data(config) if is_loss and not is_prepared(config.evaluate.source) else None


def check_suite(config: Config) -> Suite:
    """Read the suite and the completions, and try a strict sandbox.

    Raises:
        Refused: they can't be read; the baseline has another protocol; programs can't be isolated here.
    """
    evaluate, name = config.evaluate, evaluated_suite(config)
    assert name is not None
    if evaluate.sandbox == "strict":
        Sandbox(jobs=1, strict=True).close()
    if evaluate.completions is not None and config.task.name == "evaluate":
        suite = read_given(evaluate)[0]
        _check_baseline(config, protocol_of(suite, evaluate, GIVEN))
        return suite
    return read_suite(name, Path(evaluate.source or ""), evaluate.max_problems)


def check_prompts(config: Config, suite: Suite, text: TextSetup, context: int) -> None:
    """Raise Refused if the model can't be asked, or the baseline was asked by another protocol."""
    trained = data_format(text, config.data) if config.task.name == "train" else None
    prompts = make_prompts(config.evaluate, suite, text, context, trained)
    if config.task.name == "evaluate":
        _check_baseline(config, protocol_of(suite, config.evaluate, prompts.form, prompts.texts))


def _check_baseline(config: Config, protocol: Protocol) -> None:
    if config.evaluate.baseline is not None:
        refuse_other_protocol(Path(config.evaluate.baseline), protocol)


def results_problems(config: Config) -> list[Problem]:
    """Why the results can't be written."""
    directory = Path(config.evaluate.output)
    if config.task.name == "train":
        if config.train.resume is None and any(directory.glob(f"step-*/{RESULTS}*")):
            what = f"{directory} already holds the scores of a run's checkpoints"
            return [Problem(KEY, what, f"{KEY}=DIR for another directory, or move this one away")]
        return []
    origin = origin_of(config, config.evaluate.suite)
    found = output_problem(directory / RESULTS, origin, KEY)
    return [] if found is None else [found]
