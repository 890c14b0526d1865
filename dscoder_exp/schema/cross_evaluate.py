"""Checks of the keys of evaluations against each other: of task=evaluate, and of train.evaluate."""

from dscoder_exp.schema.config import LOSS, Config
from dscoder_exp.schema.errors import Problem

SOURCES = "evaluate.source=FILE.jsonl (HumanEval, MBPP, or EvalPlus' files)"


def scores_given(config: Config) -> bool:
    """Whether the task scores completions that are there, which needs no model."""
    return config.task.name == "evaluate" and config.evaluate.completions is not None


def measures_loss(config: Config) -> bool:
    return config.task.name == "evaluate" and config.evaluate.suite == LOSS


def evaluate_problems(config: Config) -> list[Problem]:
    """All contradictions between keys of an evaluation."""
    if config.task.name == "train":
        return _training(config)
    if config.task.name != "evaluate":
        return []
    evaluate, problems = config.evaluate, []
    if measures_loss(config):
        if evaluate.completions is not None:
            what = "a loss is measured on rows, not on completions"
            problems.append(Problem("evaluate.completions", what, "evaluate.suite=humaneval, or leave it out"))
        if evaluate.baseline is not None:
            what = "compares the problems solved, and a loss has none"
            problems.append(Problem("evaluate.baseline", what, "leave it out"))
        if config.data.source is None and evaluate.source is None:
            problems.append(Problem("evaluate.source", "no rows are given", "evaluate.source=FILE (.jsonl, …) or DIR"))
        return problems
    if config.parallel.context > 1:
        what = f"{config.parallel.context}, but a suite's problems are shared by replicas alone"
        problems.append(Problem("parallel.context", what, "parallel=dp2, tp2 or single"))
    if scores_given(config) and config.parallel.ranks > 1:
        what = f"{config.parallel.ranks} ranks, but evaluate.completions needs no model"
        problems.append(Problem("parallel", what, "parallel=single; evaluate.jobs=N runs programs at a time"))
    return [*problems, *_suite(config, config.evaluate.suite)]


def _training(config: Config) -> list[Problem]:
    train = config.train
    if train.evaluate is None:
        what = "is given, but train.evaluate names no suite"
        remedy = "train.evaluate=humaneval"
        return [] if train.evaluate_every is None else [Problem("train.evaluate_every", what, remedy)]
    return _suite(config, train.evaluate)


def _suite(config: Config, suite: str) -> list[Problem]:
    """Those of a suite of programs."""
    evaluate, problems = config.evaluate, []
    if not evaluate.source:
        problems.append(Problem("evaluate.source", f"the suite {suite} needs its file", SOURCES))
    if evaluate.num_samples > 1 and evaluate.temperature == 0 and evaluate.completions is None:
        what = f"{evaluate.num_samples} greedy answers to a problem would be the same"
        problems.append(Problem("evaluate.num_samples", what, "evaluate.temperature=0.8, or leave it out"))
    if evaluate.k is not None and evaluate.k > evaluate.num_samples and evaluate.completions is None:
        what = f"pass@{evaluate.k} needs {evaluate.k} samples of a problem, not {evaluate.num_samples}"
        problems.append(Problem("evaluate.k", what, f"evaluate.num_samples={evaluate.k} evaluate.temperature=0.8"))
    if evaluate.instruction is not None and "{prompt}" not in evaluate.instruction:
        what = "has no {prompt}, where the problem would be"
        problems.append(Problem("evaluate.instruction", what, "put {prompt} into it"))
    if evaluate.instruction is not None and evaluate.prompt == "completion":
        what = "is a request, and evaluate.prompt=completion asks by code"
        problems.append(Problem("evaluate.instruction", what, "evaluate.prompt=instruct, or leave it out"))
    return problems
