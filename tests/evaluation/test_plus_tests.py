"""EvalPlus' tests, and MBPP's, in the sandbox: what passes, and what only the further inputs find out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluation_support import HUMANEVAL_PLUS, MBPP, MBPP_PLUS, SANITIZED, problem_of

from dscoder_exp.evaluation.problems import CodeProblem
from dscoder_exp.evaluation.programs import Verdict
from dscoder_exp.evaluation.sandbox import Sandbox
from dscoder_exp.evaluation.scoring import Sample, Scored, Scorer

FIND_ZERO = {
    "task_id": "HumanEval/32",
    "prompt": "import math\n\n\ndef poly(xs: list, x: float):\n"
    "    return sum(c * math.pow(x, i) for i, c in enumerate(xs))\n"
    '\n\ndef find_zero(xs: list):\n    """ A zero of poly. """\n',
    "entry_point": "find_zero",
    "canonical_solution": "    return -xs[0] / xs[1]\n",
    "test": "def check(candidate):\n    assert abs(poly([1, 2], candidate([1, 2]))) < 1e-4\n",
    "base_input": [[[1, 2]]],
    "plus_input": [[[-6, 11]]],
    "atol": 1e-4,
}
HALF = {
    "task_id": "Own/3",
    "prompt": 'def half(x):\n    """ Half of x. """\n',
    "entry_point": "half",
    "canonical_solution": "    return [x / 2]\n",
    "base_input": [[1]],
    "plus_input": [[3], [10]],
    "atol": 0,
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as found:
        yield found


def scored(sandbox: Sandbox, problem: CodeProblem, *answers: str) -> list[Scored]:
    scorer = Scorer(sandbox, [problem])
    for number, answer in enumerate(answers):
        scorer.submit(Sample(problem, number, answer, "completion"))
    found = sorted(scorer.rest(), key=lambda one: one.key)
    assert not scorer.failing
    return found


def test_the_further_inputs_find_more(sandbox: Sandbox, tmp_path: Path) -> None:
    answers = "    return sum(numbers)\n", "    return sum(abs(x) for x in numbers)\n", "    raise ValueError(1)\n"
    plain = scored(sandbox, problem_of(tmp_path, HUMANEVAL_PLUS[0]), *answers)
    assert [one.verdict for one in plain] == [Verdict.PASSED, Verdict.PASSED, Verdict.ERROR]
    plus = scored(sandbox, problem_of(tmp_path, HUMANEVAL_PLUS[0], "humaneval+"), *answers)
    assert [one.verdict for one in plus] == [Verdict.PASSED, Verdict.WRONG, Verdict.ERROR]
    assert "total([-1]) is -1, not 1" in plus[1].message


def test_floats_are_compared_within_a_tolerance(sandbox: Sandbox, tmp_path: Path) -> None:
    answers = (
        "    return [x * 0.5 + 1e-9]\n",
        "    return [x * 0.5 + 1e-3]\n",
        "    return (x / 2,)\n",
        "    return x / 2\n",
    )
    found = scored(sandbox, problem_of(tmp_path, HALF, "humaneval+"), *answers)
    assert [one.verdict for one in found] == [Verdict.PASSED, Verdict.WRONG, Verdict.PASSED, Verdict.WRONG]


def test_any_zero_will_do(sandbox: Sandbox, tmp_path: Path) -> None:
    answers = "    return -xs[0] / xs[1] + 1e-7\n", "    return 0.5\n"
    found = scored(sandbox, problem_of(tmp_path, FIND_ZERO, "humaneval+"), *answers)
    assert [one.verdict for one in found] == [Verdict.PASSED, Verdict.WRONG]


@pytest.mark.parametrize(
    ("row", "suite"), [(MBPP_PLUS[0], "mbpp+"), (MBPP_PLUS[0], "mbpp"), (MBPP[0], "mbpp"), (SANITIZED[0], "mbpp")]
)
def test_mbpp(sandbox: Sandbox, tmp_path: Path, row: dict[str, Any], suite: str) -> None:
    problem = problem_of(tmp_path, row, suite)
    assert problem.reference is not None
    wrong = f"def {problem.entry_point}(*a):\n    return None\n"
    found = scored(sandbox, problem, problem.reference, wrong)
    assert found[0].verdict is Verdict.PASSED
    assert found[1].verdict in (Verdict.WRONG, Verdict.ERROR)


def test_a_faked_equality_is_no_pass(sandbox: Sandbox, tmp_path: Path) -> None:
    answer = "    class Any:\n        def __eq__(self, other): return True\n    return Any()\n"
    (found,) = scored(sandbox, problem_of(tmp_path, HUMANEVAL_PLUS[0], "humaneval+"), answer)
    assert found.verdict is not Verdict.PASSED
