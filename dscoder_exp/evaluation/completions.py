"""Completions that another program, or an earlier evaluation, made of a suite's problems."""

from collections import Counter
from pathlib import Path
from typing import Any

from dscoder_exp.evaluation.problems import CodeProblem
from dscoder_exp.evaluation.prompts import FORMS
from dscoder_exp.evaluation.rows import BadRow, id_of, read_each, read_entries, text_of
from dscoder_exp.evaluation.scoring import Sample
from dscoder_exp.evaluation.suites import Suite

KEY = "evaluate.completions"
SHAPE = 'a row is {"task_id": …, "completion": text}; several of one problem are its samples'


def read_completions(path: Path, suite: Suite, form: str) -> list[Sample]:
    """The file's completions, those of a problem numbered in their order.

    Args:
        form: evaluate.prompt. auto: the form that the row says, as results.jsonl does, else told by the completion.

    Raises:
        Refused: the file can't be read, or has bad rows, such as problems that the suite doesn't have.
    """
    problems = {problem.key: problem for problem in suite.problems}
    counts: Counter[str] = Counter()

    def read(row: dict[str, Any]) -> Sample:
        key = str(id_of(row))
        if key not in problems:
            raise BadRow(_unknown(key, suite))
        own = next((known for known in FORMS if row.get("form") == known), "auto")
        problem = problems[key]
        counts[key] += 1
        chosen = own if form == "auto" else form
        text = text_of(row, "completion")
        return Sample(problem, counts[key] - 1, text, chosen, cut=row.get("finish_reason") == "length")

    return [sample for _, sample in read_each(read_entries(path, KEY), read, SHAPE)]


def covered(samples: list[Sample], suite: Suite) -> list[CodeProblem]:
    """The suite's problems that have a completion."""
    keys = {sample.problem.key for sample in samples}
    return [problem for problem in suite.problems if problem.key in keys]


def _unknown(key: str, suite: Suite) -> str:
    in_file = f"its file has {suite.total} problems, of which {len(suite.problems)} are evaluated"
    return f"task_id {key} isn't a problem of the suite {suite.name} ({in_file})"
