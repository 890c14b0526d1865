"""Scoring completions that are there, without a model."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dscoder_exp.console import Screen
from dscoder_exp.evaluation.completions import covered, read_completions
from dscoder_exp.evaluation.keeper import Keeper
from dscoder_exp.evaluation.kept_results import KEY, origin_of
from dscoder_exp.evaluation.protocol import GIVEN, protocol_of
from dscoder_exp.evaluation.results import RESULTS, Evaluation
from dscoder_exp.evaluation.sandbox import Sandbox
from dscoder_exp.evaluation.scoring import Sample, preloaded
from dscoder_exp.evaluation.suites import Suite, read_suite
from dscoder_exp.generation.answer_file import AnswerFile, Place
from dscoder_exp.schema.config import Config, EvaluateConfig


def read_given(evaluate: EvaluateConfig) -> tuple[Suite, dict[Place, Sample]]:
    """The suite with the problems that have completions, and these, by number of the problem and of the sample.

    Raises:
        Refused: a file can't be read or has bad rows.
    """
    suite = read_suite(evaluate.suite, Path(evaluate.source or ""), evaluate.max_problems)
    samples = read_completions(Path(evaluate.completions or ""), suite, evaluate.prompt)
    problems = covered(samples, suite)
    numbers = {problem.key: number for number, problem in enumerate(problems)}
    places = {(numbers[sample.problem.key], sample.number): sample for sample in samples}
    return replace(suite, problems=problems), dict(sorted(places.items()))


def score_given(config: Config, screen: Screen, publish: Callable[[Evaluation], None]) -> Evaluation:
    """Score evaluate.completions, and write results.jsonl. Interrupted, it goes on.

    Args:
        publish: called before results.jsonl is written, which says that all is done.

    Raises:
        Refused: as `read_given` does; the results exist, or were begun otherwise; the sandbox isn't complete.
    """
    evaluate = config.evaluate
    suite, samples = read_given(evaluate)
    most = max(Counter(number for number, _ in samples).values())
    strict = evaluate.sandbox == "strict"
    with (
        AnswerFile(Path(evaluate.output) / RESULTS, origin_of(config, suite.name), KEY) as file,
        Sandbox(jobs=evaluate.jobs, strict=strict, imports=preloaded(suite)) as sandbox,
    ):
        left = [place for place in samples if place not in file.answers]
        keeper = Keeper(file, suite, sandbox, left)
        with screen.stage("scoring", keeper.total, keeper.scored) as stage:
            for place in left:
                sample = samples[place]
                kept = {"form": sample.form, **({"finish_reason": "length"} if sample.cut else {})}
                keeper.add(place, {"text": sample.answer, **kept})
            keeper.score_rest(stage.advance)
        rows, protocol = keeper.rows(list(samples), most), protocol_of(suite, evaluate, GIVEN)
        evaluation = Evaluation(suite, rows, protocol, keeper.isolation, keeper.failing, evaluate.k)
        publish(evaluation)
        keeper.finish(rows)
        return evaluation
