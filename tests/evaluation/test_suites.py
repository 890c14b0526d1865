"""Suites: the fields of each file, which problems of MBPP are evaluated, and every way in which a file can be wrong."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from evaluation_support import HUMANEVAL, HUMANEVAL_PLUS, MBPP, MBPP_PLUS, SANITIZED, problem_of, write_rows

from dscoder_exp.evaluation.suites import read_suite
from dscoder_exp.schema.errors import Refused


def test_humaneval(tmp_path: Path) -> None:
    suite = read_suite("humaneval", write_rows(tmp_path / "h.jsonl", HUMANEVAL))
    assert [problem.key for problem in suite.problems] == ["Own/0", "Own/1", "Own/2"]
    first, second, _ = suite.problems
    assert first.reference == HUMANEVAL[0]["prompt"] + HUMANEVAL[0]["canonical_solution"]
    assert first.tests.endswith("\n\ncheck(total)\n")
    assert first.preamble == "from typing import List\n\n\n"
    assert first.tests.startswith(HUMANEVAL[0]["test"])
    assert second.tests.startswith("def double(x):\n    return 2 * x\n"), "a helper in the tests is the prompt's own"
    assert read_suite("humaneval", tmp_path / "h.jsonl", 1).problems == [first]


@pytest.mark.parametrize("form", ["list", "gzip", "parquet"])
def test_other_forms_of_the_same_file(tmp_path: Path, form: str) -> None:
    file = tmp_path / {"list": "h.json", "gzip": "HumanEval.jsonl.gz", "parquet": "h.parquet"}[form]
    if form == "list":
        file.write_text(json.dumps(HUMANEVAL, indent=1))
    elif form == "gzip":
        file.write_bytes(gzip.compress("".join(f"{json.dumps(row)}\n" for row in HUMANEVAL).encode()))
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(HUMANEVAL), file)
    plain = read_suite("humaneval", write_rows(tmp_path / "plain.jsonl", HUMANEVAL)).problems
    assert read_suite("humaneval", file).problems == plain


def test_all_of_humaneval(shared_data: Path) -> None:
    suite = read_suite("humaneval", shared_data / "humaneval" / "HumanEval.jsonl")
    assert len(suite.problems) == suite.total == 164
    helped = [problem.key for problem in suite.problems if "def " in problem.preamble]
    assert helped == [f"HumanEval/{number}" for number in (10, 32, 38, 50)]


def test_of_all_of_mbpp_the_test_split_is_evaluated(tmp_path: Path) -> None:
    suite = read_suite("mbpp", write_rows(tmp_path / "m.jsonl", MBPP))
    assert [problem.task_id for problem in suite.problems] == [11, 12]
    assert [example.task_id for example in suite.examples] == [2, 3, 4]
    assert suite.total == 7
    (first, _) = suite.problems
    assert first.entry_point == "add_11"
    assert first.tests == "assert add_11(1) == 12\nassert add_11(0) == 11\n"
    assert first.reference == "def add_11(x):\n    return x + 11"


def test_rows_of_one_s_own_are_all_evaluated(tmp_path: Path) -> None:
    suite = read_suite("mbpp", write_rows(tmp_path / "m.jsonl", [MBPP[1], MBPP[-1]]))
    assert [problem.task_id for problem in suite.problems] == [2, 601]
    assert not suite.examples


def test_sanitized_mbpp(tmp_path: Path) -> None:
    (tmp_path / "sanitized-mbpp.json").write_text(json.dumps(SANITIZED))
    (problem,) = read_suite("mbpp", tmp_path / "sanitized-mbpp.json").problems
    assert problem.prompt == "Write a function that gives the root."
    assert problem.tests.startswith("import math\nassert ")
    assert problem.entry_point == "root", "neither set nor isclose, which the tests call, too"


def test_the_function_that_is_tested_is_found_without_a_solution(tmp_path: Path) -> None:
    row = {"task_id": 5, "text": "Sum.", "test_list": ["assert sorted(sums([1])) == [1]"]}
    assert problem_of(tmp_path, row, "mbpp").entry_point == "sums"


def test_evalplus(tmp_path: Path) -> None:
    problem = problem_of(tmp_path, HUMANEVAL_PLUS[0], "humaneval+")
    assert "json.loads('[[[1, 2, 3]], [[-1]], [[]]]')" in problem.tests
    assert problem_of(tmp_path, HUMANEVAL_PLUS[0]).tests == problem_of(tmp_path, HUMANEVAL[0]).tests
    problem = problem_of(tmp_path, MBPP_PLUS[0], "mbpp+")
    assert "[[(3, 4), (4, 5)], [(1,), (2,)]]" in problem.tests, "as tuples, which JSON has none of"
    assert problem.prompt == "Write a function to find shared elements."
    assert problem.examples == ("assert set(shared((3, 4), (4, 5))) == {4}",)


def test_evalplus_as_on_the_hub(tmp_path: Path) -> None:
    row = {**HUMANEVAL[0], "test": "def check(candidate):\n    assertion(candidate([1]), 1, 0)\n"}
    assert problem_of(tmp_path, row, "humaneval+").tests.endswith("check(total)\n")
    row = {**SANITIZED[0], "test": "def assertion(a, b):\n    assert a == b\nassertion(root(4), 2)"}
    assert problem_of(tmp_path, row, "mbpp+").tests == f"{row['test']}\n"


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


BAD = [
    ("humaneval", [HUMANEVAL[0], "{not JSON"], "h.jsonl:2: not JSON"),
    ("humaneval", [HUMANEVAL[0], [1]], "h.jsonl:2: not an object but a list"),
    ("humaneval", [HUMANEVAL[0], HUMANEVAL[2], HUMANEVAL[0]], "h.jsonl:3: task_id Own/0 is the one of"),
    (
        "humaneval",
        [HUMANEVAL[1], without(HUMANEVAL[0], "test")],
        'h.jsonl:2: a problem without tests: there is no "test"',
    ),
    (
        "humaneval",
        [HUMANEVAL[1], {**HUMANEVAL[0], "test": "x = 1"}],
        'h.jsonl:2: a problem without tests: "test" defines',
    ),
    ("humaneval", [HUMANEVAL[1], without(HUMANEVAL[0], "task_id")], 'h.jsonl:2: there is no "task_id"'),
    (
        "humaneval",
        [HUMANEVAL[1], {**HUMANEVAL[0], "entry_point": "sum"}],
        '"prompt" doesn\'t define the function "sum"',
    ),
    ("humaneval", [HUMANEVAL[1], {**HUMANEVAL[0], "prompt": 3}], '"prompt" is not text but a number'),
    ("humaneval", [], "evaluate.source: no rows in"),
    ("humaneval", MBPP, "looks like MBPP, not like humaneval\n      -> evaluate.suite=mbpp"),
    ("mbpp", HUMANEVAL, "looks like HumanEval, not like mbpp\n      -> evaluate.suite=humaneval"),
    ("humaneval", [{"task_id": "a", "completion": "b"}], "looks like completions (evaluate.completions), not like"),
    ("humaneval", [{"instruction": "a", "output": "b"}], "looks like rows to train on, not like humaneval"),
    ("humaneval", [{"text": "a"}], "looks like rows of text (evaluate.suite=loss), not like humaneval"),
    ("mbpp", [{**MBPP[0], "test_list": []}], 'h.jsonl:1: a problem without tests: "test_list" is empty'),
    ("mbpp", [{**MBPP[0], "test_list": "assert f()"}], '"test_list" is not a list of texts'),
    ("mbpp", [{**MBPP[0], "test_list": ["assert ("]}], '"test_list" holds what isn\'t Python'),
    ("mbpp", [{"task_id": 1, "text": "a", "test_list": ["assert True"]}], '"test_list" calls no function'),
    ("humaneval+", HUMANEVAL, 'h.jsonl:1: no further tests: there is neither "plus_input"'),
    ("humaneval+", [without(HUMANEVAL_PLUS[0], "canonical_solution")], '"plus_input" needs a "canonical_solution"'),
    ("mbpp+", [{**MBPP_PLUS[0], "plus_input": [[1, 2]]}], "inputs that this problem of MBPP doesn't take"),
]


@pytest.mark.parametrize(("suite", "rows", "told"), BAD, ids=[told for *_, told in BAD])
def test_a_bad_file_is_one_message(tmp_path: Path, suite: str, rows: list[Any], told: str) -> None:
    with pytest.raises(Refused) as refused:
        read_suite(suite, write_rows(tmp_path / "h.jsonl", rows))
    assert told in str(refused.value)


def test_only_the_first_bad_rows_are_listed(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        read_suite("humaneval", write_rows(tmp_path / "h.jsonl", [HUMANEVAL[0], *["{"] * 9]))
    assert len(refused.value.problems) == 3
    assert "(9 of 10 rows are bad)" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"%PDF-1.4", "is a PDF"),
        (b"name,value\n1,2\n", "neither JSON nor a table"),
        (b"PK\x03\x04", "is a zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"\x1f\x8b\x08broken", "damaged, or cut short"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "h.jsonl").write_bytes(content)
    with pytest.raises(Refused, match=r"evaluate\.source: ") as refused:
        read_suite("humaneval", tmp_path / "h.jsonl")
    assert told in str(refused.value)
    assert "data.source" not in str(refused.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"evaluate\.source: cannot be read: .*No such file"):
        read_suite("humaneval", tmp_path / "none.jsonl")


def test_a_list_s_bad_row_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "h.json").write_text(
        json.dumps([SANITIZED[0], {**SANITIZED[0], "task_id": 3, "test_list": []}], indent=1)
    )
    with pytest.raises(Refused, match=r"h.json:15: a problem without tests"):
        read_suite("mbpp", tmp_path / "h.json")
