"""Alpaca rows: {"instruction", "input", "output"} from a JSON list or from JSON lines."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dscoder_exp.schema.errors import refuse
from dscoder_exp.schema.locate import locate

KEY = "data.source"
SHAPE = 'a row is {"instruction": text, "input": text (may be missing), "output": text}'
SPACE = re.compile(r"[ \t\n\r]*")
TOO_DEEP = "not JSON that can be read: nested too deeply"
DECODER = json.JSONDecoder(parse_int=float)  # a row needs no numbers, and int refuses those of thousands of digits


@dataclass(frozen=True)
class Row:
    """One example: what is asked, what it is asked about (may be empty), and the answer."""

    instruction: str
    input: str
    output: str


@dataclass(frozen=True)
class Fault:
    """Why an entry is no row; `column` only where the JSON itself is broken."""

    why: str
    column: int | None = None


def read_rows(source: str) -> list[Row]:
    """The rows of a .json list or a .jsonl file, in the file's order; `source` is a path or pkg:// as in the config.

    Raises:
        Refused: no such file, not UTF-8, not JSON, no row in it, or bad rows (the first one's line, and how many).
    """
    path, raw = read_source(source)
    return parse_rows(raw, path)


def read_source(source: str) -> tuple[Path, bytes]:
    """Where the file lies, and its bytes. Raises Refused when there is no such file, or it can't be read."""
    path = locate(source, KEY)
    remedy = f"give {KEY} a .json or .jsonl file of alpaca rows"
    if path.is_dir():
        raise refuse(KEY, f"is a directory, not a file: {path}", remedy)
    try:
        return path, path.read_bytes()
    except OSError as error:
        raise refuse(KEY, f"cannot be read: {path} ({error.strerror})", remedy) from None


def parse_rows(raw: bytes, path: Path) -> list[Row]:
    """The rows in a file's bytes; `path` tells JSON lines from a list, and stands in messages. Raises Refused."""
    text = _decode(raw, path)
    lines = path.suffix == ".jsonl"
    entries = _parse_lines(text) if lines else _parse_list(text, path)
    if not entries:
        raise refuse(KEY, f"the data set is empty: {path}", SHAPE)
    faults = {index: fault for index, entry in enumerate(entries) if (fault := _fault(entry))}
    if faults:
        first = min(faults)
        starts = _line_starts(text) if lines else _list_starts(text)
        line = next(at for index, at in enumerate(starts) if index == first)
        column = faults[first].column
        where = f"{path}:{line}" + (f":{column}" if column else "")
        raise refuse(where, f"{faults[first].why} ({len(faults)} of {len(entries)} rows are bad)", SHAPE)
    return [Row(entry["instruction"], entry.get("input") or "", entry["output"]) for entry in entries]


def _decode(raw: bytes, path: Path) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise refuse(f"{path}:{line}", f"not UTF-8: {error.reason}", "save the file as UTF-8") from None


def _parse_list(text: str, path: Path) -> list[Any]:
    try:
        entries = DECODER.decode(text) if text.strip() else []
    except json.JSONDecodeError as error:
        remedy = "one object a line? name the file .jsonl" if error.msg == "Extra data" else "mend the file"
        raise refuse(f"{path}:{error.lineno}:{error.colno}", f"not JSON: {error.msg}", remedy) from None
    except RecursionError:
        raise refuse(str(path), TOO_DEEP, SHAPE) from None
    if not isinstance(entries, list):
        raise refuse(f"{path}:1", f"not a list of rows but {_kind(entries)}", SHAPE)
    return entries


def _parse_lines(text: str) -> list[Any]:
    """A line that is no JSON becomes a Fault, so that it is counted with the other bad rows."""
    entries: list[Any] = []
    for line in text.split("\n"):
        if line.strip():
            try:
                entries.append(DECODER.decode(line))
            except json.JSONDecodeError as error:
                entries.append(Fault(f"not JSON: {error.msg}", error.colno))
            except RecursionError:
                entries.append(Fault(TOO_DEEP))
    return entries


def _fault(entry: Any) -> Fault | None:
    if isinstance(entry, Fault):
        return entry
    if not isinstance(entry, dict):
        return Fault(f"not an object but {_kind(entry)}")
    for name in ("instruction", "output"):
        if name not in entry:
            return Fault(f'the row has no "{name}"')
        if not isinstance(entry[name], str):
            return Fault(f'"{name}" is not text but {_kind(entry[name])}')
    if not isinstance(entry.get("input"), str | None):
        return Fault(f'"input" is not text but {_kind(entry["input"])}')
    for name in ("instruction", "input", "output"):
        try:
            (entry.get(name) or "").encode()
        except UnicodeEncodeError:  # JSON can write half of a surrogate pair, a tokenizer can't take it
            return Fault(f'"{name}" holds half a character (a lone surrogate)')
    return None


def _kind(value: Any) -> str:
    """JSON's name for a value's type."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _line_starts(text: str) -> Iterator[int]:
    """The line (from 1) of each entry of JSON lines."""
    return (number for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _list_starts(text: str) -> Iterator[int]:
    """The line (from 1) where each entry of a JSON list begins. Slower than json.loads: for error messages only."""
    line, counted = 1, 0
    at = text.index("[") + 1
    while True:
        match = SPACE.match(text, at)
        at = match.end() if match else at
        if text[at] == "]":
            return
        if text[at] == ",":
            at += 1
            continue
        line, counted = line + text.count("\n", counted, at), at
        yield line
        at = DECODER.raw_decode(text, at)[1]
