"""JSON lists and JSON lines: their entries, and the line at which each begins."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dscoder_exp.data.rows import ALPACA, Fault, json_type
from dscoder_exp.schema.errors import refuse

SPACE = re.compile(r"[ \t\n\r]*")
TOO_DEEP = "not JSON that can be read: nested too deeply"
DECODER = json.JSONDecoder(parse_int=float)  # a row needs no numbers, and int refuses those of thousands of digits
OTHER_SUFFIX = "one object a line? name the file .jsonl; plain text is a .txt or .md file, or a directory of files"


def parse_list(text: str, path: Path) -> list[Any]:
    """The entries of a JSON list. Raises Refused where it is none."""
    try:
        entries = DECODER.decode(text) if text.strip() else []
    except json.JSONDecodeError as error:
        remedy = OTHER_SUFFIX if error.msg == "Extra data" or error.pos == 0 else "mend the file"
        raise refuse(f"{path}:{error.lineno}:{error.colno}", f"not JSON: {error.msg}", remedy) from None
    except RecursionError:
        raise refuse(str(path), TOO_DEEP, ALPACA.shape) from None
    if not isinstance(entries, list):
        raise refuse(f"{path}:1", f"not a list of rows but {json_type(entries)}", ALPACA.shape)
    return entries


def parse_lines(text: str) -> list[Any]:
    """The entries of JSON lines. A line that is no JSON becomes a Fault, to be counted with the other bad rows."""
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
    """The line (from 1) of each entry of JSON lines."""
    return (number for number, line in enumerate(text.split("\n"), 1) if line.strip())


def list_starts(text: str) -> Iterator[int]:
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
