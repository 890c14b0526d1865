"""A sandbox for the tests of one file."""

from collections.abc import Callable, Iterator
from textwrap import dedent

import pytest

from dscoder_exp.evaluation.programs import Outcome, Program
from dscoder_exp.evaluation.sandbox import Sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(2) as opened:
        yield opened


@pytest.fixture(scope="module")
def run(sandbox: Sandbox) -> Callable[..., Outcome]:
    """run(code, tests, entry_point="", seconds=5) -> the outcome. Text is dedented."""

    def one(code: str, tests: str, entry_point: str = "", seconds: float = 5.0) -> Outcome:
        program = Program(("task", 0), dedent(code), dedent(tests), entry_point, seconds)
        (outcome,) = sandbox.run([program])
        assert outcome.key == ("task", 0)
        assert "sandbox failed" not in outcome.message, outcome
        return outcome

    return one
