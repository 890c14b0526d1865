"""Problems of our own in the forms of HumanEval, MBPP and EvalPlus, and a stand-in for the sandbox."""

import json
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dscoder_exp.evaluation.problems import CodeProblem
from dscoder_exp.evaluation.programs import Outcome, Program, Verdict
from dscoder_exp.evaluation.suites import read_suite

HUMANEVAL = [
    {
        "task_id": "Own/0",
        "prompt": 'from typing import List\n\n\ndef total(numbers: List[int]) -> int:\n    """ Sum.\n'
        '    >>> total([1, 2])\n    3\n    """\n',
        "entry_point": "total",
        "canonical_solution": "    result = 0\n    for number in numbers:\n        result += number\n"
        "    return result\n",
        "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate([]) == 0\n"
        "    assert candidate([1, 2, 3]) == 6\n",
    },
    {
        "task_id": "Own/1",
        "prompt": 'def double(x):\n    return 2 * x\n\n\ndef fourfold(x):\n    """ Four times x, by double. """\n',
        "entry_point": "fourfold",
        "canonical_solution": "    return double(double(x))\n",
        "test": "def check(candidate):\n    for x in range(5):\n        assert candidate(x) == 2 * double(x)\n",
    },
    {
        "task_id": "Own/2",
        "prompt": 'def shout(text):\n    """ In capitals. """\n',
        "entry_point": "shout",
        "canonical_solution": "    return text.upper()\n",
        "test": "def check(candidate):\n    assert candidate('a') == 'A'\n",
    },
]
MBPP = [
    {
        "task_id": number,
        "text": f"Write a function to add {number} to a number.",
        "code": f"def add_{number}(x):\r\n    return x + {number}",
        "test_setup_code": "",
        "test_list": [f"assert add_{number}(1) == {number + 1}", f"assert add_{number}(0) == {number}"],
        "challenge_test_list": [],
    }
    for number in (1, 2, 3, 4, 11, 12, 601)
]
SANITIZED = [
    {
        "source_file": "own",
        "task_id": 2,
        "prompt": "Write a function that gives the root.",
        "code": "import math\ndef root(x):\n    return math.sqrt(x)",
        "test_imports": ["import math"],
        "test_list": ["assert math.isclose(root(4), 2)", "assert set([root(9)]) == {3.0}"],
    }
]
HUMANEVAL_PLUS = [
    {**HUMANEVAL[0], "base_input": [[[1, 2, 3]]], "plus_input": [[[-1]], [[]]], "atol": 0, "contract": ""},
    {**HUMANEVAL[2], "base_input": [["a"]], "plus_input": [["é"]], "atol": 0, "contract": ""},
]
MBPP_PLUS = [
    {
        "task_id": "Mbpp/2",
        "prompt": '"""\nWrite a function to find shared elements.\nassert set(shared((3, 4), (4, 5))) == {4}\n"""\n',
        "entry_point": "shared",
        "canonical_solution": "\ndef shared(a, b):\n    assert isinstance(a, tuple)\n"
        "    return tuple(set(a) & set(b))\n",
        "base_input": [[[3, 4], [4, 5]]],
        "plus_input": [[[1], [2]]],
        "atol": 0,
        "assertion": "assert set(shared((3, 4), (4, 5))) == {4}\n",
        "contract": "",
    }
]


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """Write JSON lines; a text is a line as it is."""
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def problem_of(directory: Path, row: dict[str, Any], suite: str = "humaneval") -> CodeProblem:
    """The problem of a suite with one row."""
    (problem,) = read_suite(suite, write_rows(directory / "one.jsonl", [row])).problems
    return problem


class Runner:
    """Takes Sandbox's place where nothing is to be run: `judge` says what a program comes to.

    Attributes:
        programs: all that were submitted.
    """

    isolation = "nothing was run"

    def __init__(self, judge: Callable[[Program], Outcome] = lambda program: passed(program)) -> None:
        self.programs: list[Program] = []
        self._judge, self._queue = judge, deque[Program]()

    def submit(self, program: Program) -> None:
        self.programs.append(program)
        self._queue.append(program)

    def finished(self, *, wait: bool) -> list[Outcome]:
        return [self._judge(self._queue.popleft())] if self._queue else []

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *error: object) -> None:
        pass


def passed(program: Program, seconds: float = 0.01) -> Outcome:
    return Outcome(program.key, Verdict.PASSED, "", seconds)
