"""Parsing JSON: a list of rows, a row a line, or rows one after another; and the line at which each begins."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from dscoder_exp.data.file_kinds import BOM, opened
from dscoder_exp.schema.errors import Refused, refuse

BETWEEN = re.compile(r"[ \t\n\r,]*")  # between two entries of a list
MAX_DIGITS = 4300  # of a number that int() takes
TOO_DEEP = "JSON nested too deeply to be parsed"
DECODER = json.JSONDecoder(parse_int=lambda digits: float(digits) if len(digits) > MAX_DIGITS else int(digits))


@dataclass(frozen=True)
class Fault:
    """Why an entry is no row.

    Attributes:
        column: only where the JSON itself is broken.
        remedy: what to do; None: make it a row.
    """

    why: str
    column: int | None = None
    remedy: str | None = None

    @property
    def reason(self) -> str:
        """What is wrong, without the number of the message: to count equal faults."""
        return re.sub(r"\bmessage \d+", "a message", self.why)


def json_type(value: Any) -> str:
    """JSON's name for a value's type; of a value that isn't from JSON, Python's."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    names |= {int: "a number", float: "a number"}
    return names.get(type(value), f"a {type(value).__name__}")


def decoded(content: bytes) -> str:
    """UTF-8 as text, without a byte order mark. A byte that isn't UTF-8 becomes a lone surrogate, for a row's check."""
    return content.removeprefix(BOM).decode("utf-8", "surrogateescape")


def parse_list(path: Path) -> list[Any]:
    """The entries of a JSON list, held whole. Raises Refused, naming line, column and row, if the file isn't one."""
    with opened(path) as file:
        text = decoded(file.read())
    try:
        return DECODER.decode(text) if text.strip() else []
    except json.JSONDecodeError as error:
        raise _broken(path, text, error, text.index("[") + 1) from None
    except RecursionError:
        raise refuse(str(path), TOO_DEEP, "correct the file") from None


def parse_objects(path: Path) -> list[Any]:
    """Objects one after another, of any number of lines, as `jq` writes them. Raises Refused as `parse_list` does."""
    with opened(path) as file:
        text = decoded(file.read())
    try:
        return [entry for _, entry in _entries(text, 0)]
    except json.JSONDecodeError as error:
        raise _broken(path, text, error, 0) from None
    except RecursionError:
        raise refuse(str(path), TOO_DEEP, "correct the file") from None


def _broken(path: Path, text: str, error: json.JSONDecodeError, first: int) -> Refused:
    row = 0
    try:
        for _ in takewhile(lambda entry: entry[0] <= error.pos, _entries(text, first)):
            row += 1
    except json.JSONDecodeError:
        row += 1
    where = "after the last row" if error.msg == "Extra data" else f"in row {max(row, 1)}"
    what = f"not JSON {where}: {error.msg}"
    return refuse(f"{path}:{error.lineno}:{error.colno}", what, "correct the file")


def parse_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The entries of JSON lines, each with its line, counted from 1.

    An invalid line becomes a Fault, to be reported with the other bad rows.
    """
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, parse_line(decoded(line.rstrip(b"\r\n")))


def parse_line(line: str) -> Any:
    try:
        return DECODER.decode(line)
    except json.JSONDecodeError as error:
        return Fault(f"not JSON: {error.msg}", error.colno)
    except RecursionError:
        return Fault(TOO_DEEP)


def entry_lines(path: Path) -> Iterator[int]:
    """The line, counted from 1, where each entry of a list, or of objects one after another, begins.

    Slow: for error messages only.
    """
    with opened(path) as file:
        text = decoded(file.read())
    line, counted = 1, 0
    for at, _ in _entries(text, text.index("[") + 1 if text.lstrip().startswith("[") else 0):
        line, counted = line + text.count("\n", counted, at), at
        yield line


def _entries(text: str, at: int) -> Iterator[tuple[int, Any]]:
    """JSON values from `at` on, with commas between them or without, up to the end or a bracket; each with its place.

    Raises:
        JSONDecodeError: what stands there is no JSON.
    """
    while True:
        match = BETWEEN.match(text, at)
        at = match.end() if match else at
        if at >= len(text) or text[at] == "]":
            return
        value, end = DECODER.raw_decode(text, at)
        yield at, value
        at = end
