"""EvalPlus' tests: the outputs of the reference solution on many inputs, which a program's have to equal.

The rules of comparison are EvalPlus' (arXiv:2305.01210, evalplus 0.3): equal, or within `atol` (1e-6 for floats where
it is 0) and a relative 1e-7; a zero of a polynomial is tested by the polynomial's value. `contract`, which says which
inputs are valid, isn't needed: the inputs that the file brings are.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from dscoder_exp.evaluation.problems import CodeProblem
from dscoder_exp.evaluation.rows import BadRow

FIELDS = ("base_input", "plus_input")
WHOLE = re.compile(r"^def assertion\(|\bassertion\(", re.MULTILINE)  # in a `test` that holds all inputs and outputs
Change = Callable[[Any], Any]

# Run in the process of the tests, never in the program's.
TESTS = """
import copy, json, math

{reference}

def is_floats(value):
    return isinstance(value, float) or (
        isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(item, float) for item in value)
    )

def is_close(found, expected, atol):
    if isinstance(expected, (list, tuple)):
        return isinstance(found, (list, tuple)) and len(found) == len(expected) and all(
            is_close(one, other, atol) for one, other in zip(found, expected)
        )
    if isinstance(expected, (int, float)) and isinstance(found, (int, float)):
        return found == expected or math.isclose(found, expected, rel_tol=1e-7, abs_tol=atol)
    return found == expected

def is_right(found, expected, given):
    if {is_zero}:
        return abs(sum(factor * math.pow(found, power) for power, factor in enumerate(given[0]))) <= {zero_atol}
    atol = {atol} or (1e-6 if is_floats(expected) else 0)
    return bool(found == expected) or (atol != 0 and is_close(found, expected, atol))

def check(candidate, answer, inputs):
    for given in inputs:
        expected = answer(*copy.deepcopy(given))
        found = candidate(*copy.deepcopy(given))
        assert is_right(found, expected, given), "{entry_point}(" + ", ".join(map(repr, given))[:300] + ") is " + (
            repr(expected)[:200] + ", not " + repr(found)[:200]
        )

check({entry_point}, {answer}, {inputs})
"""


def has_plus(row: dict[str, Any]) -> bool:
    return all(isinstance(row.get(name), list) for name in FIELDS)


def plus_tests(problem: CodeProblem, row: dict[str, Any]) -> str | None:
    """The tests of a row with EvalPlus' fields; None if it has none.

    Raises:
        BadRow: there are inputs, but no reference solution to give their outputs.
    """
    if not has_plus(row):
        test = row.get("test")
        if not isinstance(test, str) or not WHOLE.search(test):
            return None
        return problem.tests if problem.continues else f"{test}\n"
    if problem.reference is None:
        raise BadRow('"plus_input" needs a "canonical_solution" that gives the outputs')
    inputs = [_as_typed(problem.key, given) for name in FIELDS for given in row[name]]
    atol = float(row.get("atol") or 0)
    renamed = f"reference_of_{problem.entry_point}"
    return TESTS.format(
        reference=f"def {renamed}():\n    space = {{}}\n    exec({problem.reference!r}, space)\n"
        f"    return space[{problem.entry_point!r}]\n",
        entry_point=problem.entry_point,
        answer=f"{renamed}()",
        inputs=_literal(inputs),
        atol=atol,
        is_zero=problem.continues and problem.entry_point == "find_zero",
        zero_atol=atol or 1e-4,
    )


def _literal(inputs: list[Any]) -> str:
    """Inputs as Python: through JSON, which is parsed faster, where that holds them exactly."""
    text = json.dumps(inputs)
    return f"json.loads({text!r})" if json.loads(text) == inputs and "NaN" not in text else repr(inputs)


# EvalPlus stores MBPP's inputs as JSON, which has no tuples, sets and complex numbers: what each problem's are made of.
PAIRS = {2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809}
LISTS_OF_TUPLES = {63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780}
FIRST_IS_A_LIST_OF_TUPLES = {75, 413, 444, 753}
SECOND_IS_A_TUPLE = {106, 750}
FIRST_IS_A_TUPLE = {250, 307, 405, 446, 617, 720, 763, 808}
TUPLES_OF_TUPLES = {259, 401, 445}
ALL_TUPLES = {580, 615, 791}


def _as_typed(key: str, given: list[Any]) -> list[Any]:
    """A call's arguments in their Python types. Raises BadRow where they are of another form."""
    name, _, number = key.rpartition("/")
    if name.lower() != "mbpp" or not number.isdecimal():
        return given
    try:
        return _typed(int(number), given)
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise BadRow(f"inputs that this problem of MBPP doesn't take: {error}") from None


def _typed(number: int, given: list[Any]) -> list[Any]:
    first, *rest = given
    if number in PAIRS:
        return [tuple(item) for item in given]
    if number in LISTS_OF_TUPLES:
        return [[tuple(item) for item in items] for items in given]
    if number in FIRST_IS_A_LIST_OF_TUPLES:
        return [[tuple(item) for item in first], *rest]
    if number in SECOND_IS_A_TUPLE:
        return [first, tuple(rest[0]), *rest[1:]]
    if number in FIRST_IS_A_TUPLE:
        return [tuple(first), *rest]
    if number in TUPLES_OF_TUPLES:
        return [tuple(tuple(item) for item in items) for items in given]
    if number in ALL_TUPLES:
        return [_all_tuples(item) for item in given]
    if number == 115:
        return [[set(item) if isinstance(item, list) and item else {} for item in first]]
    if number == 124:
        return [float(first), complex(rest[0])]
    if number == 252:
        return [complex(first)]
    if number == 278:
        return [tuple(tuple(item) if isinstance(item, list) else item for item in first)]
    if number == 722:
        return [{name: tuple(value) for name, value in first.items()}, *rest]
    return given


def _all_tuples(value: Any) -> Any:
    return tuple(map(_all_tuples, value)) if isinstance(value, list) else value
