"""Running the programs of answers in the sandbox, each within a limit that its reference solution's time sets."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from dscoder_exp.evaluation.extraction import MODULES, extract, with_imports
from dscoder_exp.evaluation.problems import CodeProblem
from dscoder_exp.evaluation.programs import LEAST_SECONDS, Outcome, Program, Verdict, time_limit
from dscoder_exp.evaluation.suites import Suite

REFERENCE = -1  # number of the "sample" that a reference solution is
REFERENCE_SECONDS = 60.0


class Runner(Protocol):
    """What evaluation/sandbox.py's Sandbox is to the scorer."""

    def submit(self, program: Program) -> None: ...

    def finished(self, *, wait: bool) -> list[Outcome]: ...


@dataclass(frozen=True)
class Sample:
    """An answer to be scored.

    Attributes:
        form: how it was asked for, or "auto": evaluation/extraction.py.
        cut: it ended at the longest length.
    """

    problem: CodeProblem
    number: int
    answer: str
    form: str
    cut: bool = False

    @property
    def key(self) -> tuple[str, int]:
        return self.problem.key, self.number


@dataclass(frozen=True)
class Scored:
    """A sample's verdict. code: the program that was run; None: none was."""

    key: tuple[str, int]
    verdict: Verdict
    message: str
    seconds: float
    code: str | None

    def fields(self) -> dict[str, Any]:
        """What a file of results holds of it."""
        return {
            "verdict": str(self.verdict),
            "message": self.message,
            "code": self.code,
            "seconds": round(self.seconds, 4),
        }


class Scorer:
    """Scores samples while others are being generated: `submit` and `finished` don't wait.

    The reference solutions run first. A problem's samples wait for its own, whose time sets their limit.

    Attributes:
        failing: message of each reference solution that doesn't pass, by problem.
    """

    def __init__(self, sandbox: Runner, problems: Iterable[CodeProblem]) -> None:
        self._sandbox = sandbox
        self.failing: dict[str, str] = {}
        self._limits: dict[str, float] = {}
        self._waiting: dict[str, list[Program]] = {}  # for their problem's reference solution
        self._codes: dict[tuple[str, int], str] = {}  # of programs that are running
        self._done: list[Scored] = []
        for problem in problems:
            if problem.reference is None:
                self._limits[problem.key] = LEAST_SECONDS
            else:
                self._waiting[problem.key] = []
                reference = _program(problem, REFERENCE, with_imports(problem.reference))
                sandbox.submit(replace(reference, time_limit=REFERENCE_SECONDS))

    def submit(self, sample: Sample) -> None:
        found = extract(sample.problem, sample.answer, sample.form, cut=sample.cut)
        if found.code is None:
            assert found.verdict is not None
            self._done.append(Scored(sample.key, found.verdict, "", 0.0, None))
            return
        program = _program(sample.problem, sample.number, with_imports(found.code))
        self._codes[sample.key] = program.code
        if sample.problem.key in self._waiting:
            self._waiting[sample.problem.key].append(program)
        else:
            self._run(program)

    def finished(self) -> list[Scored]:
        """The samples that have been scored since the last call."""
        for outcome in self._sandbox.finished(wait=False):
            self._take(outcome)
        done, self._done = self._done, []
        return done

    def rest(self) -> Iterator[Scored]:
        """All samples that are left, as they end; the reference solutions have ended then, too."""
        while self._done or self._codes or self._waiting:
            if not self._done:
                for outcome in self._sandbox.finished(wait=True):
                    self._take(outcome)
            yield from self.finished()

    def _run(self, program: Program) -> None:
        self._sandbox.submit(replace(program, time_limit=self._limits[program.key[0]]))

    def _take(self, outcome: Outcome) -> None:
        key, sample = outcome.key
        if sample != REFERENCE:
            code = self._codes.pop(outcome.key)
            self._done.append(Scored(outcome.key, outcome.verdict, outcome.message, outcome.seconds, code))
            return
        passed = outcome.verdict is Verdict.PASSED
        self._limits[key] = time_limit(outcome.seconds) if passed else LEAST_SECONDS
        if not passed:
            self.failing[key] = f"{outcome.verdict}: {outcome.message}" if outcome.message else str(outcome.verdict)
        for program in self._waiting.pop(key):
            self._run(program)


def _program(problem: CodeProblem, sample: int, code: str) -> Program:
    return Program((problem.key, sample), code, problem.tests, problem.entry_point)


def preloaded(suite: Suite) -> tuple[str, ...]:
    """Modules that the sandbox imports once for all programs."""
    uses_numpy = any("numpy" in problem.tests for problem in suite.problems)
    return (*MODULES, "numpy") if uses_numpy else MODULES
