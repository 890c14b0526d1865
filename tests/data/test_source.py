"""Reading a data set, and the messages about a bad one."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dscoder_exp.data.json_rows import TOO_DEEP
from dscoder_exp.data.rows import ALPACA, AnyRow, Chat, Message, Row, Text, is_blank, row_content
from dscoder_exp.data.source import Source, read_source
from dscoder_exp.data.text_files import TextFile
from dscoder_exp.schema.errors import Refused

GOOD = {"instruction": "Add.", "input": "1, 2", "output": "3"}


def read_rows(source: Path | str) -> list[AnyRow]:
    return read_source(str(source)).rows().rows


def refusals(path: Path, content: bytes | str | None = None) -> list[tuple[str, str]]:
    """Each problem's (where, what)."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Refused) as caught:
        read_rows(path)
    problems = caught.value.problems
    assert problems[-1].remedy
    return [(problem.where, problem.what) for problem in problems]


def refusal(path: Path, content: bytes | str | None = None) -> tuple[str, str]:
    (problem,) = refusals(path, content)
    return problem


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
    assert read_rows(as_list) == expected
    assert read_rows(as_lines) == expected


def test_missing(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    assert refusal(path) == ("data.source", f"no such file or directory: {str(path)!r}")


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
    first, second = refusals(as_list, text)
    assert first == (f"{as_list}:12", why)
    assert second[1] == f"{why} (2 of 5 rows are bad)"
    lines = "\n".join(json.dumps(row) for row in (GOOD, bad, GOOD, bad)) + "\n"
    assert refusals(as_lines, "\n" + lines) == [
        (f"{as_lines}:3", why),
        (f"{as_lines}:5", f"{why} (2 of 4 rows are bad)"),
    ]


def test_the_first_three_bad_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    found = refusals(path, "\n".join(json.dumps(row) for row in [GOOD, *[{"instruction": "a"}] * 5]))
    assert [where for where, _ in found] == [f"{path}:{line}" for line in (2, 3, 4)]
    assert found[2][1] == 'the row has no "output" (5 of 6 rows are bad)'


def test_broken_line_counts_as_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    content = f'{json.dumps(GOOD)}\n{{"instruction": oops}}\n{json.dumps({"output": "x"})}\n'
    assert refusals(path, content) == [
        (f"{path}:2:17", "not JSON: Expecting value"),
        (f"{path}:3", 'the row has no "instruction" (2 of 3 rows are bad)'),
    ]


def test_numbers_and_depth_beyond_what_python_reads(tmp_path: Path) -> None:
    lines, as_list = tmp_path / "rows.jsonl", tmp_path / "rows.json"
    long = json.dumps(GOOD)[:-1] + ', "id": ' + "7" * 5000 + "}"
    as_list.write_text(f"[{long}]")
    assert read_rows(as_list) == [Row(**GOOD)]
    deep = "[" * 200_000
    assert refusal(as_list, deep) == (str(as_list), TOO_DEEP)
    assert refusal(lines, f"{long}\n{deep}\n") == (f"{lines}:2", f"{TOO_DEEP} (1 of 2 rows are bad)")


def test_message_as_a_user_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[\n{"instruction": "a"}\n]')
    with pytest.raises(Refused) as caught:
        read_rows(path)
    assert str(caught.value) == (
        f'dscoder_exp: refused\n  - {path}:2: the row has no "output" (1 of 1 rows are bad)\n      -> {ALPACA.shape}'
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
    with TemporaryDirectory() as directory:
        path = Path(directory) / "rows.json"
        path.write_bytes(text.encode())
        with pytest.raises(Refused) as caught:
            Source(path, "list").rows()
    assert caught.value.problems[0].where == f"{path}:{line}"
    assert f"(1 of {len(parts)} rows are bad)" in caught.value.problems[0].what


def test_a_file_of_each_kind(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]
    messages.append({"role": "assistant", "content": "2"})
    files = {
        "chat": ({"messages": messages}, Chat(tuple(Message(**message) for message in messages))),
        "prompt and response": ({"prompt": "1 + 1?", "response": "2"}, Row("1 + 1?", "", "2")),
        "text": ({"text": "1 + 1 = 2", "url": "x"}, Text("1 + 1 = 2")),
        "alpaca": (GOOD | {"text": "the whole prompt, as in alpaca's own file"}, Row(**GOOD)),
    }
    for name, (entry, row) in files.items():
        path.write_text(json.dumps(entry))
        found = read_source(str(path)).rows()
        assert (found.kind.name, found.rows) == (name, [row])


def test_another_kind_of_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    mixed = [{"prompt": "a", "response": "b"}, GOOD, {"text": "c"}, {"prompt": "d", "text": "e"}]
    assert refusals(path, "\n".join(map(json.dumps, mixed))) == [
        (f"{path}:2", "a row of another kind (alpaca) than the rows before it (prompt and response)"),
        (f"{path}:3", "a row of another kind (text) than the rows before it (prompt and response)"),
        (f"{path}:4", 'the row has no "response" (3 of 4 rows are bad)'),
    ]


def texts_of(source: Source) -> list[str]:
    rows = source.rows().rows
    assert all(isinstance(row, TextFile) for row in rows)
    return [b"".join(row_content(row)).decode() for row in rows]


def test_text_files(tmp_path: Path) -> None:
    for name in ("book.txt", "book.md"):
        (tmp_path / name).write_text("One.\r\nTwo.\n", encoding="utf-8-sig", newline="")
        source = read_source(str(tmp_path / name))
        assert (texts_of(source), source.where(0)) == (["One.\r\nTwo.\n"], f"{tmp_path / name}:1")
    assert refusal(tmp_path / "book.py", "One.")[1] == "not JSON: Expecting value"


def test_a_directory_of_texts(tmp_path: Path) -> None:
    root = tmp_path / "code"
    for name, content in {
        "b.py": b"b = 1\n",
        "a/z.py": "é = 2\n".encode(),
        "a/icon.png": b"\x89PNG\0",
        ".git/config": b"[core]",
        "a/.hidden": b"x",
        "empty.py": b"",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "broken").symlink_to("nowhere")
    (root / "loop").symlink_to(root)
    source = read_source(str(root))
    assert texts_of(source) == ["é = 2\n", "b = 1\n", ""]
    assert [is_blank(row) for row in source.rows().rows] == [False, False, True]
    assert source.skipped == 2  # the picture, and the link to nowhere; the other one is not followed
    assert source.where(1) == f"{root / 'b.py'}:1"

    before = source.digest()
    (root / "b.py").rename(root / "c.py")
    assert read_source(str(root)).digest() != before
    for number in range(5):
        (root / f"bad{number}.py").write_bytes(b"x\n\xff")
    found = refusals(root)
    assert found[:3] == [(f"{root / f'bad{number}.py'}:2", "not UTF-8: invalid start byte") for number in range(3)]
    assert found[3] == ("data.source", "2 more files are not UTF-8")


def test_an_empty_directory(tmp_path: Path) -> None:
    assert refusal(tmp_path) == ("data.source", f"the data set is empty: {tmp_path}")


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.json"
    path.touch()

    def fail(*_: object) -> BinaryIO:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", fail)
    assert refusal(path) == ("data.source", f"cannot be read: {path} (Permission denied)")
