"""Reading a data set, and the messages about a bad one."""

import csv
import gzip
import json
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dscoder_exp.data.file_kinds import NOT_UTF8
from dscoder_exp.data.json_rows import TOO_DEEP, Fault
from dscoder_exp.data.row_kinds import ALPACA, FORMS
from dscoder_exp.data.rows import AnyRow, Conversation, Message, Text, exchange, is_blank, row_content
from dscoder_exp.data.source import Rows, Source, read_source
from dscoder_exp.data.table_rows import QUOTING
from dscoder_exp.data.text_files import TextFile
from dscoder_exp.schema.errors import Refused

GOOD = {"instruction": "Add.", "input": "1, 2", "output": "3"}


ROW = exchange("Add.", "1, 2", "3")


def read_rows(source: Path | str, **options: Any) -> list[AnyRow]:
    return read_source(str(source)).rows(**options).rows


def refusals(path: Path, content: bytes | str | None = None, **options: Any) -> list[tuple[str, str]]:
    """Each problem's (where, what)."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Refused) as caught:
        read_rows(path, **options)
    problems = caught.value.problems
    assert problems[-1].remedy
    return [(problem.where, problem.what) for problem in problems]


def refusal(path: Path, content: bytes | str | None = None, **options: Any) -> tuple[str, str]:
    (problem,) = refusals(path, content, **options)
    return problem


def test_reads_a_list_and_lines(tmp_path: Path) -> None:
    rows = [
        GOOD,
        {"instruction": "Say hé.", "output": "hé"},
        {"instruction": "x", "input": None, "output": "", "id": 7},
    ]
    expected = [ROW, exchange("Say hé.", "", "hé"), exchange("x", "", "")]
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
        "not JSON in row 1: Expecting ':' delimiter",
    )
    one_line = '[{"instruction": "a"}, {"instruction": "b"} {"instruction": "c"}]'
    assert refusal(path, one_line) == (f"{path}:1:45", "not JSON in row 3: Expecting ',' delimiter")
    assert refusal(path, '[{"instruction": "a"}]\n[]') == (f"{path}:2:1", "not JSON after the last row: Extra data")
    for content in ('{"data": [{"instruction": "a"}]}', '{\n "data": []\n}'):
        what = "not a list of rows but an object that has one as its 'data'"
        assert refusal(path, content) == (f"{path}:1", what)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_invalid_utf8_is_a_fault_of_its_row(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    lines = [b'{"prompt": "a", "response": "b"}', b'{"prompt": "a", "response": "\xff"}']
    content = {"rows.jsonl": b"\n".join(lines), "rows.json": b"[" + b",\n".join(lines) + b"]"}
    content["rows.csv"] = b"prompt,response\na,\xff\n"
    where = f"{path}:2"
    row = 1 if name == "rows.csv" else 2
    assert refusal(path, content[name]) == (where, f'row {row}: "response" is not UTF-8 (1 of {row} rows are bad)')


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"instruction": "a"}, 'there is no "output"'),
        ({"output": "a"}, 'there is no "instruction"'),
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
    assert first == (f"{as_list}:12", f"row 3: {why}")
    assert second[1] == f"row 5: {why} (2 of 5 rows are bad)"
    lines = "\n".join(json.dumps(row) for row in (GOOD, bad, GOOD, bad)) + "\n"
    assert refusals(as_lines, "\n" + lines) == [
        (f"{as_lines}:3", f"row 2: {why}"),
        (f"{as_lines}:5", f"row 4: {why} (2 of 4 rows are bad)"),
    ]
    one_line = refusals(as_list, json.dumps([GOOD, GOOD, bad]))
    assert one_line == [(f"{as_list}:1", f"row 3: {why} (1 of 3 rows are bad)")]


def test_the_first_three_bad_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    found = refusals(path, "\n".join(json.dumps(row) for row in [GOOD, *[{"instruction": "a"}] * 5]))
    assert [where for where, _ in found] == [f"{path}:{line}" for line in (2, 3, 4)]
    assert found[2][1] == 'row 4: there is no "output" (5 of 6 rows are bad)'


def test_broken_line_counts_as_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    content = f'{json.dumps(GOOD)}\n{{"instruction": oops}}\n{json.dumps({"output": "x"})}\n'
    assert refusals(path, content) == [
        (f"{path}:2:17", "row 2: not JSON: Expecting value"),
        (f"{path}:3", 'row 3: there is no "instruction" (2 of 3 rows are bad)'),
    ]


def test_numbers_and_depth_beyond_what_python_reads(tmp_path: Path) -> None:
    lines, as_list = tmp_path / "rows.jsonl", tmp_path / "rows.json"
    long = json.dumps(GOOD)[:-1] + ', "id": ' + "7" * 5000 + "}"
    as_list.write_text(f"[{long}]")
    assert read_rows(as_list) == [ROW]
    deep = "[" * 200_000
    assert refusal(as_list, deep) == (str(as_list), TOO_DEEP)
    assert refusal(lines, f"{long}\n{deep}\n") == (f"{lines}:2", f"row 2: {TOO_DEEP} (1 of 2 rows are bad)")


def test_message_as_a_user_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[\n{"instruction": "a"}\n]')
    with pytest.raises(Refused) as caught:
        read_rows(path)
    assert str(caught.value) == (
        f'dscoder_exp: refused\n  - {path}:2: row 1: there is no "output" (1 of 1 rows are bad)\n'
        f"      -> {ALPACA.shape}; data.columns={{KEY: NAME}} reads KEY from NAME"
    )
    path.write_text('[\n{"question": "a", "Answer": "b"}\n]')
    with pytest.raises(Refused) as caught:
        read_rows(path)
    assert str(caught.value) == (
        f'dscoder_exp: refused\n  - {path}:2: row 1: of no known kind: its keys are "question", "Answer"\n'
        f"      -> {FORMS}; data.columns={{prompt: NAME, response: NAME}} reads these two from NAME"
    )


def test_the_remedy_is_the_bad_rows_own(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    drop = "data.bad_rows=drop leaves bad rows out"
    for content, remedies in {
        "prompt,response\na,é\n".encode("latin-1"): [NOT_UTF8],
        "prompt,response\na,b\nc,é\n".encode("latin-1"): [NOT_UTF8, drop],
        "prompt,response\na,b,c\nd,e\nf,é\n".encode("latin-1"): [QUOTING, NOT_UTF8, drop],
    }.items():
        path.write_bytes(content)
        with pytest.raises(Refused) as caught:
            read_rows(path)
        assert caught.value.problems[-1].remedy == "; ".join(remedies)


def test_a_row_whose_key_holds_null_is_of_its_kind(tmp_path: Path) -> None:
    what = 'row 1: "prompt" is not text but null (1 of 1 rows are bad)'
    assert refusal(tmp_path / "rows.jsonl", '{"prompt": null, "response": "b"}')[1] == what


TEXT = st.text(alphabet='ab\\"[]{},:\n\té', max_size=12)
ROWS = st.builds(lambda a, b, c: {"instruction": a, "input": b, "output": c}, TEXT, TEXT, TEXT)


@given(
    before=st.lists(ROWS, max_size=6),
    after=st.lists(ROWS, max_size=3),
    gaps=st.lists(st.sampled_from(["", " ", "\n", "\n\n  ", "\r\n\t"]), min_size=24, max_size=24),
    indent=st.sampled_from([None, 0, 3]),
)
def test_line_of_a_bad_row_whatever_the_layout(before: list, after: list, gaps: list[str], indent: int | None) -> None:
    parts = [json.dumps(row, indent=indent) for row in [*before, {"instruction": "no output"}, *after]]
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
        "chat": ({"messages": messages}, Conversation(tuple(Message(m["role"], m["content"]) for m in messages))),
        "prompt and response": ({"prompt": "1 + 1?", "response": "2"}, exchange("1 + 1?", "", "2")),
        "text": ({"text": "1 + 1 = 2", "url": "x"}, Text("1 + 1 = 2")),
        "alpaca": (GOOD | {"text": "the whole prompt, as in alpaca's own file"}, ROW),
    }
    for name, (entry, row) in files.items():
        path.write_text(json.dumps(entry))
        found = read_source(str(path)).rows()
        assert (found.kind.name, found.rows) == (name, [row])


def test_another_kind_of_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    mixed = [{"prompt": "a", "response": "b"}, GOOD, {"text": "c"}, {"prompt": "d", "text": "e"}]
    assert refusals(path, "\n".join(map(json.dumps, mixed))) == [
        (f"{path}:2", "row 2: a row of another kind (alpaca) than the rows before it (prompt and response)"),
        (f"{path}:3", "row 3: a row of another kind (text) than the rows before it (prompt and response)"),
        (f"{path}:4", 'row 4: there is no "response" (3 of 4 rows are bad)'),
    ]


PAIRS = [{"prompt": f"q{number}, é\n", "response": f'"a{number}"'} for number in range(5)]
EXPECTED = [exchange(pair["prompt"], "", pair["response"]) for pair in PAIRS]


def write(path: Path, rows: list[dict], **options: Any) -> Path:
    """Rows in a file of the kind that its name says."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    if name.endswith((".csv", ".tsv")):
        with path.open("w", newline="", encoding="utf-8") as file:
            delimiter = "\t" if name.endswith(".tsv") else options.get("delimiter", ",")
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    elif name.startswith("list"):
        path.write_text(json.dumps(rows))
    elif name.startswith("objects"):
        path.write_text("\n".join(json.dumps(row, indent=2) for row in rows))
    else:
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


@pytest.mark.parametrize(
    "name",
    [
        *("rows.jsonl", "rows.json", "rows.ndjson", "rows", "rows.data", "rows.txt", "rows.jsonl.gz", "rows.json.gz"),
        *("list.json", "list.jsonl", "list.txt", "list.json.gz", "objects.json", "objects.jsonl"),
        *("rows.csv", "rows.tsv", "rows.csv.gz", "rows.CSV", "rows.parquet", "parquet without a suffix"),
    ],
)
def test_rows_in_a_file_of_any_kind_and_name(tmp_path: Path, name: str) -> None:
    if name.startswith("parquet"):
        path = write(tmp_path / "rows.parquet", PAIRS).rename(tmp_path / "rows")
    else:
        path = write(tmp_path / name.lower(), PAIRS).rename(tmp_path / name)
    assert read_rows(path) == EXPECTED
    assert read_rows(path, limit=2) == EXPECTED[:2]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_table_with_another_delimiter(tmp_path: Path, delimiter: str) -> None:
    assert read_rows(write(tmp_path / "rows.csv", PAIRS, delimiter=delimiter)) == EXPECTED


def test_bad_tables(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    table = 'prompt,response\n"a\nb",c\n\nd\ne,f,g\n'
    assert refusals(path, table) == [
        (f"{path}:5", "row 2: 1 fields where the first line names 2"),
        (f"{path}:6", "row 3: 3 fields where the first line names 2 (2 of 3 rows are bad)"),
    ]
    assert refusal(path, 'prompt,response\na,"b"c\n') == (f"{path}:2", "not CSV: ',' expected after '\"'")
    assert refusal(path, 'prompt,response\na,b\nc,"d\ne,f\n') == (f"{path}:3", "not CSV: unexpected end of data")
    assert refusal(path, "prompt,prompt\na,b\n") == (f"{path}:1", "the column 'prompt' is named twice")
    assert refusal(path, "prompt,response\n") == ("data.source", f"the data set is empty: {path}")
    no_names = 'row 1: of no known kind: its keys are "How?", "So."'
    assert refusal(path, "How?,So.\nWhy?,Because.\n") == (f"{path}:2", no_names)


def test_a_cell_may_hold_a_whole_book(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", [{"text": "long " * 50_000}])
    assert read_rows(path) == [Text("long " * 50_000)]


def test_nested_parquet(tmp_path: Path) -> None:
    """All objects of a column have the keys of each: null where a row lacks them."""
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    other = {"type": "function", "function": {"name": "neg", "arguments": {"b": 2}}}
    messages = [
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [call, other]}],
        [{"role": "user", "content": "x", "name": "Ann"}, {"role": "assistant", "content": "y"}],
    ]
    path = write(tmp_path / "rows.parquet", [{"messages": both} for both in messages])
    found = [[m.as_dict() for m in row.messages] for row in read_rows(path) if isinstance(row, Conversation)]
    assert found == messages
    columns = {"role": ["user", "assistant"], "content": ["x", "y"]}
    assert read_rows(write(tmp_path / "columns.parquet", [{"messages": columns}])) == [exchange("x", "", "y")]
    dated = [message | {"at": datetime(2024, 1, 2)} for message in messages[1]]
    path = write(
        tmp_path / "dated.parquet", [{"messages": dated, "tools": [{"name": "add", "at": datetime(2024, 1, 2)}]}]
    )
    (row,) = read_rows(path)
    assert isinstance(row, Conversation)
    assert row.messages[0].extras() == {"name": "Ann", "at": "2024-01-02 00:00:00"}
    bad = write(tmp_path / "bad.parquet", [{"prompt": "a", "response": "b"}, {"prompt": "a", "response": None}])
    what = 'row 2: "response" is not text but null (1 of 2 rows are bad)'
    assert refusal(bad) == (str(bad), what)
    bad.write_bytes(bad.read_bytes()[:-20])
    assert refusal(bad)[1].startswith(f"damaged, or cut short: {bad} (")


def test_damaged_gzip(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    content = gzip.compress(json.dumps(GOOD).encode() * 1000)
    assert refusal(path, content[:-30])[1].startswith(f"damaged, or cut short: {path} (")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a web page (HTML)"),
        (b"PK\x03\x04\x14\0", "a zip archive, as .xlsx"),
        (b"%PDF-1.7", "a PDF"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"\x28\xb5\x2f\xfd\0", "compressed with zstd"),
        ("[]".encode("utf-16"), "UTF-16 text"),
        (b"\x01\x02\0", "binary"),
        (b"\0" * 257 + b"ustar", "a tar archive"),
        (b"GGUF\x03\0", "a GGUF file"),
        (b"\xff\xff\xff\xff\x90\0\0\0", "an Arrow file"),
        (b"import os\n", "neither JSON nor a table: it begins with 'import os'"),
        (gzip.compress(b"A book.", mtime=0), "compressed text"),
        (gzip.compress(b"PK\x03\x04", mtime=0), "a zip archive"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / "rows.json"
    where, what = refusal(path, content)
    assert (where, what.startswith(f"not rows, nor text: {path} is {kind}")) == ("data.source", True), what


def test_prepared_data_are_no_source(tmp_path: Path) -> None:
    assert "data that was prepared already" in refusal(tmp_path / "train.mindrecord", b"\0\0\0")[1]


def test_columns(tmp_path: Path) -> None:
    rows = [{"question": "a", "answer": "b", "prompt": "c", "id": 1}]
    path = write(tmp_path / "rows.jsonl", rows)
    columns = {"prompt": "question", "response": "answer"}
    found = read_source(str(path)).rows(columns)
    assert (found.kind.name, found.rows) == ("prompt and response", [exchange("a", "", "b")])
    assert found.ignored == {"id": 1}
    swapped = write(tmp_path / "swapped.csv", [{"prompt": "b", "response": "a", "text": "c"}])
    assert read_rows(swapped, columns={"prompt": "response", "response": "prompt"}) == [exchange("a", "", "b")]
    text = write(tmp_path / "text.jsonl", [{"instruction": "a", "output": "b", "body": "c"}])
    assert read_rows(text, columns={"text": "body"}) == [Text("c")]
    dialogue = [{"dialogue": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]
    chat = write(tmp_path / "chat.jsonl", dialogue)
    assert read_rows(chat, columns={"conversations": "dialogue"}) == [exchange("a", "", "b")]


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"prompt": "questoin"}, "no row has a 'questoin'"),
        ({"reply": "answer"}, "a row has no 'reply'"),
        ({"messages": "question", "output": "answer"}, "no kind of row has 'messages', 'output' together"),
    ],
)
def test_bad_columns(tmp_path: Path, columns: dict[str, str], what: str) -> None:
    path = write(tmp_path / "rows.jsonl", [{"question": "a", "answer": "b"}])
    assert refusal(path, columns=columns) == ("data.columns", what)


def test_a_text_has_no_columns(tmp_path: Path) -> None:
    where, what = refusal(tmp_path / "book.txt", "One.", columns={"text": "body"})
    assert (where, what) == ("data.columns", f"a text has no columns: {tmp_path / 'book.txt'}")


def test_bad_rows_are_dropped_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row) for row in (GOOD, GOOD | {"output": None}, GOOD)]
    path.write_text("\n".join(["", "{oops", lines[0], lines[1], lines[2]]))
    source = read_source(str(path))
    found = source.rows(drop_bad=True)
    assert found.rows == [ROW, ROW]
    assert [(index, fault.why) for index, fault in found.faults.items()] == [
        (0, "not JSON: Expecting property name enclosed in double quotes"),
        (2, '"output" is not text but null'),
    ]
    assert [found.entry(index) for index in (0, 1)] == [1, 3]
    assert [source.where(found.entry(index)) for index in (0, 1)] == [f"{path}:3", f"{path}:5"]
    assert [str(problem) for problem in source.problems(found.faults)] == [
        f"{path}:2:2: row 1: not JSON: Expecting property name enclosed in double quotes",
        f'{path}:4: row 3: "output" is not text but null',
    ]
    path.write_text(lines[1])
    assert refusal(path, drop_bad=True)[1] == 'row 1: "output" is not text but null (1 of 1 rows are bad)'


@given(st.sets(st.integers(0, 9)))
def test_rows_know_the_entry_that_they_came_from(bad: set[int]) -> None:
    found = Rows(ALPACA, [], dict.fromkeys(bad, None), None)  # type: ignore[arg-type]
    assert [found.entry(index) for index in range(10 - len(bad))] == sorted(set(range(10)) - bad)


def test_reasons_are_counted_whatever_the_message() -> None:
    faults = [Fault(f'"content" of message {number} is not text but null') for number in (1, 22)]
    assert {fault.reason for fault in faults} == {'"content" of a message is not text but null'}


CASES = {
    "alpaca": 6,
    "history": 6,
    "lines_named": 12,
    "prompt_completion": 6,
    "sharegpt": 6,
    "trailing_user": 10,
    "weight0": 4,
}


def test_what_users_bring(shared_data: Path) -> None:
    for name, least in CASES.items():
        (path,) = (shared_data / "cases" / "rows").glob(f"{name}.*")
        found = read_source(str(path)).rows()
        assert len(found.rows) >= least, name
        assert found.ignored == ({"messages after the last answer": 1} if name == "trailing_user" else {})


def texts_of(source: Source) -> list[str]:
    rows = source.rows().rows
    assert all(isinstance(row, TextFile) for row in rows)
    return [b"".join(row_content(row)).decode() for row in rows]


def test_text_files(tmp_path: Path) -> None:
    for name in ("book.txt", "book.md"):
        (tmp_path / name).write_text("One.\r\nTwo.\n", encoding="utf-8-sig", newline="")
        source = read_source(str(tmp_path / name))
        assert (texts_of(source), source.where(0)) == (["One.\r\nTwo.\n"], f"{tmp_path / name}:1")
    json_like = '{"a": 1}\nis how JSON looks.'
    assert texts_of(read_source(str(plain(tmp_path / "guide.md", json_like)))) == [json_like]


def plain(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def test_a_directory_of_rows_is_refused(tmp_path: Path) -> None:
    """As texts their JSON would be learnt."""
    plain(tmp_path / "README.md", "# A data set")
    for name in ("train-00000.parquet", "train-00001.parquet"):
        write(tmp_path / name, PAIRS)
    what = f"a directory of files of rows, of which one can be given: {tmp_path}"
    assert refusal(tmp_path) == ("data.source", what)
    (tmp_path / "dataset_infos.json").write_text("{}")
    assert refusal(tmp_path) == ("data.source", what)
    plain(tmp_path / "code.py", "x = 1")
    (tmp_path / "dataset_infos.json").unlink()
    assert texts_of(read_source(str(tmp_path))) == ["# A data set", "x = 1"]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("train.json", b'[{"prompt": "a", "response": "b"}]', "a directory of files of rows"),
        ("data-00000-of-00001.arrow", b"\xff\xff\xff\xff", "a directory of files of rows"),
        ("train.mindrecord", b"\0", "not rows, nor text"),
    ],
)
def test_other_directories_of_data(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "state.json").write_text('{"split": "train"}')
    assert refusal(tmp_path)[1].startswith(what)


def test_a_directory_of_json_is_refused_if_it_holds_rows(tmp_path: Path) -> None:
    settings = plain(tmp_path / "tsconfig.json", '{"strict": true}')
    assert texts_of(read_source(str(tmp_path))) == ['{"strict": true}']
    settings.unlink()
    for name in ("list.json", "lines.json.gz", "rows.jsonl"):
        write(tmp_path / name, PAIRS)
    assert refusal(tmp_path)[1].startswith("a directory of files of rows")


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
