"""Suites of programs: HumanEval and MBPP as their authors publish them, and with EvalPlus' tests.

Sources of the fields: HumanEval (arXiv:2107.03374; task_id, prompt, entry_point, canonical_solution, test), MBPP
(arXiv:2108.07732; task_id, text, code, test_list, test_setup_code; sanitized: prompt, test_imports), EvalPlus
(arXiv:2305.01210; base_input, plus_input, atol beside them, or `test` with all inputs, as on Hugging Face's hub).
"""

import builtins
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dscoder_exp.evaluation.plus_tests import has_plus, plus_tests
from dscoder_exp.evaluation.problems import CodeProblem, called_names, definition_line, definitions_in, parsed
from dscoder_exp.evaluation.rows import BadRow, Placed, id_of, read_each, read_entries, text_of
from dscoder_exp.schema.errors import Problem, Refused, refuse

KEY = "evaluate.source"
MBPP_SPLIT = range(11, 511)  # the problems of MBPP that are for testing (its README)
MBPP_EXAMPLES = (2, 3, 4)  # and those that its paper shows before a problem
# What a file looks like: the keys of its first row, and its name
LOOKS = (
    ({"entry_point", "prompt", "test"}, "HumanEval"),
    ({"entry_point", "prompt", "base_input"}, "EvalPlus"),
    ({"test_list"}, "MBPP"),
    ({"task_id", "completion"}, "completions (evaluate.completions)"),
    ({"messages"}, "rows to train on"),
    ({"conversations"}, "rows to train on"),
    ({"instruction", "output"}, "rows to train on"),
    ({"prompt", "response"}, "rows to train on"),
    ({"text"}, "rows of text (evaluate.suite=loss)"),
)
SHAPES = {
    "humaneval": "a row has task_id, prompt, entry_point and test",
    "mbpp": "a row has task_id, text (or prompt) and test_list",
}
FILES = {"HumanEval": "humaneval", "MBPP": "mbpp"}


@dataclass(frozen=True)
class Suite:
    """
    Attributes:
        name: as evaluate.suite has it.
        problems: those that are evaluated, in the file's order.
        examples: solved problems that are shown with a request.
        total: problems in the file.
    """

    name: str
    problems: Sequence[CodeProblem]
    examples: Sequence[CodeProblem] = ()
    total: int = 0
    path: Path = field(default_factory=Path)

    @property
    def family(self) -> str:
        return self.name.removesuffix("+")

    def problem(self, key: str) -> CodeProblem | None:
        return next((problem for problem in self.problems if problem.key == key), None)


def read_suite(name: str, path: Path, max_problems: int | None = None) -> Suite:
    """Read a suite's file: JSON lines, also compressed with gzip, a JSON list or Parquet.

    Args:
        name: humaneval, mbpp, or one of them with a plus.
        max_problems: the number of problems that are evaluated, the first ones; None: all.

    Raises:
        Refused: the file can't be read, is of another kind, has a malformed row or a problem without tests, or a
            task_id twice.
    """
    family, plus = name.removesuffix("+"), name.endswith("+")
    entries = read_entries(path, KEY)
    _refuse_other_kind(entries, name, path)
    read: Callable[[dict[str, Any]], CodeProblem] = {"humaneval": _humaneval, "mbpp": _mbpp}[family]
    placed = read_each(entries, lambda row: _with_plus(read(row), row) if plus else read(row), SHAPES[family])
    _refuse_duplicates(placed)
    problems = [problem for _, problem in placed]
    chosen, examples = _split_of_mbpp(problems) if family == "mbpp" else (problems, [])
    return Suite(name, chosen[:max_problems], examples, len(problems), path)


def _humaneval(row: dict[str, Any]) -> CodeProblem:
    """Raises BadRow."""
    task_id, prompt, entry_point = id_of(row), text_of(row, "prompt"), text_of(row, "entry_point")
    if definition_line(prompt, entry_point) is None:
        raise BadRow(f'"prompt" doesn\'t define the function "{entry_point}"')
    test, solution = row.get("test"), row.get("canonical_solution")
    if not has_plus(row) and (not isinstance(test, str) or not _defines_check(test)):
        raise BadRow("a problem without tests: " + ('"test" defines no check' if test else 'there is no "test"'))
    reference = f"{prompt}{solution}" if isinstance(solution, str) else None
    problem = CodeProblem(task_id, prompt, entry_point, "", (), reference, continues=True)
    if not isinstance(test, str) or not _defines_check(test):
        return problem  # EvalPlus' inputs are the tests
    # The tests of some problems call a helper that the prompt defines: they get the prompt's own, not the program's.
    helpers = problem.preamble if definitions_in(problem.preamble) else ""
    return replace(problem, tests=f"{helpers}{test}\n\ncheck({entry_point})\n")


def _mbpp(row: dict[str, Any]) -> CodeProblem:
    """Raises BadRow."""
    task_id, code = id_of(row), row.get("code", row.get("canonical_solution"))
    prompt = text_of(row, "text" if isinstance(row.get("text"), str) else "prompt")
    listed = row["test_list"] if "test_list" in row else _asserts_of(row.get("assertion"))
    if not isinstance(listed, list) or not all(isinstance(test, str) for test in listed):
        raise BadRow('"test_list" is not a list of texts')
    if not any(test.strip() for test in listed):
        raise BadRow('a problem without tests: "test_list" is empty')
    if unreadable := next((test for test in listed if parsed(test) is None), None):
        raise BadRow(f'"test_list" holds what isn\'t Python: {unreadable[:60]!r}')
    imports = row.get("test_imports") or []
    setup = "\n".join(filter(None, [row.get("test_setup_code"), *imports]))
    code = code.replace("\r\n", "\n") if isinstance(code, str) else None
    entry_point = row.get("entry_point") or _tested(listed, code)
    tests = "\n".join([*([setup] if setup else []), *listed, ""])
    return CodeProblem(task_id, _described(prompt), entry_point, tests, tuple(listed), code)


def _with_plus(problem: CodeProblem, row: dict[str, Any]) -> CodeProblem:
    """The problem with EvalPlus' tests. Raises BadRow where the row brings none."""
    tests = plus_tests(problem, row)
    if tests is None:
        raise BadRow('no further tests: there is neither "plus_input" nor EvalPlus\' "test"')
    return replace(problem, tests=tests)


def _described(prompt: str) -> str:
    """MBPP's description; of EvalPlus' docstring, which ends with a test, what stands in it."""
    lines = prompt.strip().removeprefix('"""').removesuffix('"""').strip().splitlines()
    return "\n".join(line for line in lines if not line.startswith("assert ")).strip()


def _asserts_of(assertion: Any) -> Any:
    return assertion.strip().splitlines() if isinstance(assertion, str) else assertion


def _tested(tests: Sequence[str], code: str | None) -> str:
    """The function that the tests call: one that the solution defines, else the first that is called. Raises BadRow."""
    called = called_names("\n".join(tests))
    known = [name for name in called if name in definitions_in(code or "")]
    found = known or [name for name in called if not hasattr(builtins, name)]
    if not found:
        raise BadRow('"test_list" calls no function')
    return found[0]


def _defines_check(test: str) -> bool:
    return "check" in definitions_in(test)


def _split_of_mbpp(problems: list[CodeProblem]) -> tuple[list[CodeProblem], list[CodeProblem]]:
    """The problems that are evaluated, and the examples: of MBPP's whole file its test split; else all, and none."""
    numbers = {problem: int(problem.key.rpartition("/")[2]) for problem in problems if _ends_in_number(problem.key)}
    tested = [problem for problem in problems if numbers.get(problem) in MBPP_SPLIT]
    if not tested:
        return problems, []
    examples = [problem for problem in problems if numbers.get(problem) in MBPP_EXAMPLES and problem.reference]
    return tested, examples if len(examples) == len(MBPP_EXAMPLES) else []


def _ends_in_number(key: str) -> bool:
    return key.rpartition("/")[2].isdecimal()


def _refuse_other_kind(entries: Sequence[Placed], name: str, path: Path) -> None:
    first = next((entry for _, entry in entries if isinstance(entry, dict)), {})
    looks = next((looks for keys, looks in LOOKS if keys <= first.keys()), None)
    if looks is None or looks == "EvalPlus":
        return
    if (family := FILES.get(looks)) is not None and family == name.removesuffix("+"):
        return
    remedy = f"evaluate.suite={family}" if family else f"{KEY}=FILE.jsonl: {SHAPES[name.removesuffix('+')]}"
    raise refuse(KEY, f"{path} looks like {looks}, not like {name}", remedy)


def _refuse_duplicates(placed: Iterable[tuple[str, CodeProblem]]) -> None:
    first: dict[str, str] = {}
    problems = []
    for where, problem in placed:
        if problem.key in first:
            problems.append(Problem(where, f"task_id {problem.key} is the one of {first[problem.key]}, too"))
        first.setdefault(problem.key, where)
    if problems:
        raise Refused([*problems[:2], Problem(problems[-1].where, problems[-1].what, "give each problem its own")])
