"""What is scored, and how it came out: a program with its tests, and the verdict on it."""

from dataclasses import dataclass
from enum import StrEnum

LEAST_SECONDS = 3.0  # the limit of human-eval's own harness (Chen et al. 2021), there in wall time
TIMES_REFERENCE = 10.0  # a right answer may be this much slower than the reference solution


class Verdict(StrEnum):
    """How a sample came out. Only PASSED counts as solved.

    The sandbox gives PASSED to TIMED_OUT below; NOTHING_EXTRACTED and TRUNCATED are given before a program exists.
    """

    PASSED = "passed"
    WRONG = "wrong"  # an assertion of the tests failed
    ERROR = "error"  # it raised, exited, or crashed
    SYNTAX = "syntax"  # it doesn't compile
    TIMED_OUT = "timed out"
    OUT_OF_MEMORY = "out of memory"
    REFUSED = "refused"  # it failed at something that the sandbox doesn't permit, such as a connection
    NOTHING_EXTRACTED = "nothing extracted"
    TRUNCATED = "truncated"


@dataclass(frozen=True)
class Program:
    """A program and the tests that judge it.

    The program runs in one process and the tests in another, which it can't see. Global names that the tests use and
    don't define are the program's: calling one calls the program's function, with copies of the arguments.

    Attributes:
        key: task id, and number of the sample from 0.
        code: the whole program (for HumanEval the prompt and the completion).
        tests: HumanEval: `test`, then `check(ENTRY_POINT)`; MBPP: imports, set-up and the asserts.
        entry_point: the function under test. It is the program's even where a builtin has its name (MBPP asks for a
            `sum`); other names of builtins are never the program's.
        time_limit: seconds that the program and its tests may compute or wait; a busy machine's queue isn't counted.
    """

    key: tuple[str, int]
    code: str
    tests: str
    entry_point: str = ""
    time_limit: float = LEAST_SECONDS


@dataclass(frozen=True)
class Outcome:
    """What a program came to.

    Attributes:
        key: the program's.
        message: "" if passed; else one to three lines: the failed assertion with its line and what the program
            answered, or the exception's last line with the program's line.
        seconds: what the program and its tests computed or waited, the quantity that time_limit bounds.
    """

    key: tuple[str, int]
    verdict: Verdict
    message: str
    seconds: float


def time_limit(reference_seconds: float) -> float:
    """Seconds that a program may take whose reference solution's Outcome.seconds, measured here, are given."""
    return max(LEAST_SECONDS, TIMES_REFERENCE * reference_seconds)
