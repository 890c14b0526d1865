"""HumanEval's own programs in the sandbox, beside what one process makes of them."""

import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from operator_flips import flips

from dscoder_exp.evaluation.programs import Outcome, Program, Verdict
from dscoder_exp.evaluation.sandbox import Sandbox

pytestmark = pytest.mark.slow
Row = dict[str, Any]


@pytest.fixture(scope="module")
def problems(shared_data: Path) -> list[Row]:
    with (shared_data / "humaneval" / "HumanEval.jsonl").open() as file:
        return [json.loads(line) for line in file]


def judging(row: Row) -> str:
    return f"{row['test']}\ncheck({row['entry_point']})\n"


def run(problems: list[Row], codes: list[str]) -> list[Outcome]:
    """The outcomes of a program for each problem, in the problems' order."""
    programs = [
        Program((row["task_id"], 0), code, judging(row), row["entry_point"], 10.0)
        for row, code in zip(problems, codes, strict=True)
    ]
    with Sandbox() as sandbox:
        found = {outcome.key: outcome for outcome in sandbox.run(programs)}
    return [found[program.key] for program in programs]


def passes_in_one_process(code: str, tests: str) -> bool:
    """What the original harness does: program and tests in one namespace, in a child."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(60)
            resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)
            exec(f"{code}\n{tests}", {})
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_all_reference_solutions_pass(problems: list[Row]) -> None:
    found = run(problems, [row["prompt"] + row["canonical_solution"] for row in problems])
    assert [outcome for outcome in found if outcome.verdict != Verdict.PASSED] == []
    assert len(found) == 164


def test_no_empty_completion_passes(problems: list[Row]) -> None:
    found = run(problems, [row["prompt"] for row in problems])
    assert {outcome.verdict for outcome in found} == {Verdict.WRONG, Verdict.ERROR}


def test_solutions_with_an_operator_flipped_come_out_as_in_one_process(problems: list[Row]) -> None:
    """The first flip of each function that has an operator: the tests see 141 of 145."""
    flipped = [
        (row, next(flips(row["prompt"] + row["canonical_solution"], row["entry_point"]), None)) for row in problems
    ]
    rows, codes = zip(*((row, found[1]) for row, found in flipped if found), strict=True)
    found = [outcome.verdict == Verdict.PASSED for outcome in run(list(rows), list(codes))]
    expected = [passes_in_one_process(code, judging(row)) for row, code in zip(rows, codes, strict=True)]
    assert found == expected
    assert (len(found), sum(found)) == (145, 4)
