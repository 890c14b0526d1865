"""Reading files of JSON rows for an evaluation: each row with its place, or one message for all that is wrong."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dscoder_exp.data.file_kinds import KEY as DATA_KEY
from dscoder_exp.data.file_kinds import form_of
from dscoder_exp.data.json_rows import Fault, entry_lines, json_type, parse_lines, parse_list, parse_objects
from dscoder_exp.data.table_rows import parse_parquet
from dscoder_exp.schema.errors import Problem, Refused, refuse

MAX_PROBLEMS = 3  # bad rows that a message lists
T = TypeVar("T")


class BadRow(ValueError):
    """A row that can't be used, and why."""


class Placed(NamedTuple):
    """An entry of a file; where: file:line, or the row's number in a Parquet file."""

    where: str
    entry: Any


def read_entries(path: Path, key: str) -> list[Placed]:
    """The entries of a file of JSON lines, a JSON list or Parquet.

    Args:
        key: the config key that names the file.

    Raises:
        Refused: the file can't be read, is of another kind, or is empty.
    """
    remedy = f"{key}=FILE.jsonl"
    try:
        form = form_of(path)
        if form not in ("lines", "list", "objects", "parquet"):
            raise refuse(key, f"not rows of JSON: {path} is {'a table' if form == 'table' else 'text'}", remedy)
        entries = list(_placed(path, form))
    except OSError as error:
        raise refuse(key, f"cannot be read: {path} ({error.strerror})", remedy) from None
    except Refused as refused:  # of the functions that read data.source
        named = (replace(p, where=key, remedy=remedy) if p.where == DATA_KEY else p for p in refused.problems)
        raise Refused(list(named)) from None
    if not entries:
        raise refuse(key, f"no rows in {path}", remedy)
    return entries


def read_each(entries: list[Placed], read: Callable[[dict[str, Any]], T], remedy: str) -> list[tuple[str, T]]:
    """What `read` makes of each entry, with its place.

    Args:
        read: raises BadRow.
        remedy: what a row has to be.

    Raises:
        Refused: bad rows: the first ones, and their number.
    """
    found, faults = [], []
    for where, entry in entries:
        try:
            if isinstance(entry, Fault):
                raise BadRow(entry.why)
            if not isinstance(entry, dict):
                raise BadRow(f"not an object but {json_type(entry)}")
            found.append((where, read(entry)))
        except BadRow as error:
            faults.append(Problem(where, str(error)))
    if faults:
        *first, last = faults[:MAX_PROBLEMS]
        what = f"{last.what} ({len(faults)} of {len(entries)} rows are bad)"
        raise Refused([*first, Problem(last.where, what, remedy)])
    return found


def text_of(row: dict[str, Any], name: str) -> str:
    """A row's text. Raises BadRow."""
    if name not in row or row[name] is None:
        raise BadRow(f'there is no "{name}"')
    if not isinstance(row[name], str):
        raise BadRow(f'"{name}" is not text but {json_type(row[name])}')
    if any("\ud800" <= character <= "\udfff" for character in row[name]):
        raise BadRow(f'"{name}" holds bytes that are not UTF-8')
    return row[name]


def id_of(row: dict[str, Any]) -> str | int:
    """A row's task_id, text or a whole number. Raises BadRow."""
    found = row.get("task_id")
    if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
        raise BadRow('there is no "task_id"' if found in (None, "") else '"task_id" is neither text nor a whole number')
    return found


def _placed(path: Path, form: str) -> list[Placed]:
    if form == "lines":
        return [Placed(f"{path}:{number}", entry) for number, entry in parse_lines(path)]
    if form == "parquet":
        return [Placed(f"{path}: row {number}", entry) for number, entry in enumerate(parse_parquet(path), 1)]
    entries = parse_list(path) if form == "list" else parse_objects(path)
    return [Placed(f"{path}:{line}", entry) for line, entry in zip(entry_lines(path), entries, strict=True)]
