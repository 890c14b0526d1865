"""Parsing JSON lists and JSON lines, and the line at which each entry begins."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dscoder_exp.data.rows import ALPACA, Fault, json_type
from dscoder_exp.schema.errors import refuse

SPACE = re.compile(r"[ \t\n\r]*")
TOO_DEEP = "JSON nested too deeply to be parsed"
DECODER = json.JSONDecoder(parse_int=float)  # a row's numbers are ignored, and int() refuses thousands of digits
WRONG_SUFFIX_REMEDY = "name a file of one JSON object per line .jsonl, and plain text .txt or .md"


def parse_list(text: str, path: Path) -> list[Any]:
    """The entries of a JSON list. Raises Refused, naming line and column, if `text` isn't one."""
    try:
        entries = DECODER.decode(text) if text.strip() else []
    except json.JSONDecodeError as error:
        remedy = WRONG_SUFFIX_REMEDY if error.msg == "Extra data" or error.pos == 0 else "correct the file"
        raise refuse(f"{path}:{error.lineno}:{error.colno}", f"not JSON: {error.msg}", remedy) from None
    except RecursionError:
        raise refuse(str(path), TOO_DEEP, ALPACA.shape) from None
    if not isinstance(entries, list):
        raise refuse(f"{path}:1", f"not a list of rows but {json_type(entries)}", ALPACA.shape)
    return entries


def parse_lines(text: str) -> list[Any]:
    """The entries of JSON lines. An invalid line becomes a Fault, to be reported with the other bad rows."""
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


def line_starts(text: str) -> Iterator[int]:
    """The line, counted from 1, of each entry of JSON lines."""
    return (number for number, line in enumerate(text.split("\n"), 1) if line.strip())


def list_starts(text: str) -> Iterator[int]:
    """The line, counted from 1, where each entry of a JSON list begins. Slow: for error messages only."""
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
