"""Reading alpaca rows, and what a reader of a bad file is told."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dscoder_exp.data.alpaca import SHAPE, TOO_DEEP, Row, parse_rows, read_rows
from dscoder_exp.schema.errors import Refused

GOOD = {"instruction": "Add.", "input": "1, 2", "output": "3"}


def refusal(path: Path, content: bytes | str | None = None) -> tuple[str, str]:
    """Where and what read_rows refuses."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Refused) as caught:
        read_rows(str(path))
    (problem,) = caught.value.problems
    assert problem.remedy
    return problem.where, problem.what


def test_reads_a_list_and_lines(tmp_path: Path) -> None:
    rows = [
        GOOD,
        {"instruction": "Say hé.", "output": "hé"},
        {"instruction": "x", "input": None, "output": "", "id": 7},
    ]
    expected = [Row("Add.", "1, 2", "3"), Row("Say hé.", "", "hé"), Row("x", "", "")]
    as_list, as_lines = tmp_path / "rows.json", tmp_path / "rows.jsonl"
    as_list.write_text(json.dumps(rows), encoding="utf-8-sig")  # with a byte order mark, as some editors save
    as_lines.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    assert read_rows(str(as_list)) == expected
    assert read_rows(str(as_lines)) == expected


def test_missing_and_directory(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    assert refusal(path) == ("data.source", f"no such file or directory: {str(path)!r}")
    assert refusal(tmp_path) == ("data.source", f"is a directory, not a file: {tmp_path}")


@pytest.mark.parametrize("content", ["", " \n", "[]", "[\n]\n"])
def test_empty(tmp_path: Path, content: str) -> None:
    for name in ("rows.json", "rows.jsonl"):
        if name == "rows.json" or not content.strip():
            path = tmp_path / name
            assert refusal(path, content) == ("data.source", f"the data set is empty: {path}")


def test_malformed_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    assert refusal(path, '[\n  {"instruction": "a",\n   "output" 3}\n]') == (
        f"{path}:3:13",
        "not JSON: Expecting ':' delimiter",
    )
    assert refusal(path, '{"a": 1}\n{"a": 2}\n') == (f"{path}:2:1", "not JSON: Extra data")
    assert refusal(path, '{"data": []}') == (f"{path}:1", "not a list of rows but an object")


def test_invalid_utf8(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    assert refusal(path, b'[\n{"instruction": "a"},\n{"output": "\xff"}]') == (
        f"{path}:3",
        "not UTF-8: invalid start byte",
    )


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"instruction": "a"}, 'the row has no "output"'),
        ({"output": "a"}, 'the row has no "instruction"'),
        ({"instruction": 3, "output": "a"}, '"instruction" is not text but a number'),
        ({"instruction": "a", "output": None}, '"output" is not text but null'),
        ({"instruction": "a", "output": ["b"]}, '"output" is not text but a list'),
        ({"instruction": "a", "input": {}, "output": "b"}, '"input" is not text but an object'),
        ({"instruction": "a", "input": False, "output": "b"}, '"input" is not text but true or false'),
        ({"instruction": "a", "output": "\ud800"}, '"output" holds half a character (a lone surrogate)'),
        ("text", "not an object but text"),
    ],
)
def test_bad_row_is_named_by_line_and_counted(tmp_path: Path, bad: object, why: str) -> None:
    as_list, as_lines = tmp_path / "rows.json", tmp_path / "rows.jsonl"
    text = json.dumps([GOOD, GOOD, bad, GOOD, bad], indent=2)
    assert refusal(as_list, text) == (f"{as_list}:12", f"{why} (2 of 5 rows are bad)")
    lines = "\n".join(json.dumps(row) for row in (GOOD, bad, GOOD, bad)) + "\n"
    assert refusal(as_lines, "\n" + lines) == (f"{as_lines}:3", f"{why} (2 of 4 rows are bad)")


def test_broken_line_counts_as_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    content = f'{json.dumps(GOOD)}\n{{"instruction": oops}}\n{json.dumps({"output": "x"})}\n'
    assert refusal(path, content) == (f"{path}:2:17", "not JSON: Expecting value (2 of 3 rows are bad)")


def test_numbers_and_depth_beyond_what_python_reads(tmp_path: Path) -> None:
    lines, as_list = tmp_path / "rows.jsonl", tmp_path / "rows.json"
    long = json.dumps(GOOD)[:-1] + ', "id": ' + "7" * 5000 + "}"
    as_list.write_text(f"[{long}]")
    assert read_rows(str(as_list)) == [Row(**GOOD)]
    deep = "[" * 200_000
    assert refusal(as_list, deep) == (str(as_list), TOO_DEEP)
    assert refusal(lines, f"{long}\n{deep}\n") == (f"{lines}:2", f"{TOO_DEEP} (1 of 2 rows are bad)")


def test_message_as_a_user_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[\n{"instruction": "a"}\n]')
    with pytest.raises(Refused) as caught:
        read_rows(str(path))
    assert str(caught.value) == (
        f'dscoder_exp: refused\n  - {path}:2: the row has no "output" (1 of 1 rows are bad)\n      -> {SHAPE}'
    )


TEXT = st.text(alphabet='ab\\"[]{},:\n\té', max_size=12)
ROWS = st.builds(lambda a, b, c: {"instruction": a, "input": b, "output": c}, TEXT, TEXT, TEXT)


@given(
    before=st.lists(ROWS, max_size=6),
    after=st.lists(ROWS, max_size=3),
    gaps=st.lists(st.sampled_from(["", " ", "\n", "\n\n  ", "\r\n\t"]), min_size=24, max_size=24),
    indent=st.sampled_from([None, 0, 3]),
)
def test_line_of_a_bad_row_whatever_the_layout(before: list, after: list, gaps: list[str], indent: int | None) -> None:
    parts = [json.dumps(row, indent=indent) for row in [*before, {"output": "no instruction"}, *after]]
    gap = iter(gaps)
    text, line = next(gap) + "[" + next(gap), 0
    for number, part in enumerate(parts):
        if number == len(before):
            line = text.count("\n") + 1
        text += part + next(gap) + ("," + next(gap) if number < len(parts) - 1 else "]")
    with pytest.raises(Refused) as caught:
        parse_rows(text.encode(), Path("rows.json"))
    assert caught.value.problems[0].where == f"rows.json:{line}"
    assert f"(1 of {len(parts)} rows are bad)" in caught.value.problems[0].what
