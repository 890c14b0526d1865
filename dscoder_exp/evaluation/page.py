"""evaluation.html: a page of all samples that needs no network, with each program beside what was wrong with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dscoder_exp.evaluation.results import Evaluation
from dscoder_exp.evaluation.scores import CONFIDENCE, Comparison

TEMPLATE = Path(__file__).with_name("page.html.jinja")


def write_page(file: Path, evaluation: Evaluation, comparison: Comparison | None = None) -> None:
    """Write the page."""
    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    unfinished = file.with_name(f".{file.name}.unfinished")
    page = template.render(
        evaluation=evaluation,
        score=evaluation.score,
        confidence=CONFIDENCE,
        comparison=comparison,
        samples=[_sample(evaluation, row) for row in evaluation.rows],
    )
    unfinished.write_text(page, encoding="utf-8", errors="replace")
    unfinished.replace(file)


def _sample(evaluation: Evaluation, row: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of a sample."""
    problem = evaluation.suite.problem(str(row["task_id"]))
    assert problem is not None
    shown = row["code"] if row.get("code") is not None else row["completion"]
    return {
        **row,
        "prompt": problem.prompt,
        "tests": "\n".join(problem.examples),
        "what": "program" if row.get("code") is not None else "answer, of which no program was taken",
        "lines": list(enumerate(shown.rstrip("\n").split("\n"), 1)),
        "failing_reference": evaluation.failing.get(problem.key),
    }
