"""The data set that `data.source` names: a file of rows, a text file, or a directory of text files."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from dscoder_exp.data.file_kinds import KEY, NOT_UTF8, REMEDY, form_of, refuse_directory_of_rows
from dscoder_exp.data.json_rows import Fault, entry_lines, parse_lines, parse_list, parse_objects
from dscoder_exp.data.row_kinds import (
    ALPACA,
    FORMS,
    KINDS,
    NAMES,
    TEXT,
    Kind,
    kind_of,
    kinds_with,
    read_row,
    unknown_keys,
)
from dscoder_exp.data.rows import AnyRow
from dscoder_exp.data.table_rows import parse_parquet, parse_table
from dscoder_exp.data.text_files import NotUtf8, read_chunks, scan_text
from dscoder_exp.hub.locate import locate
from dscoder_exp.schema.errors import Problem, Refused, refuse

COLUMNS_KEY = "data.columns"
MAX_PROBLEMS = 3  # bad rows, or files that aren't UTF-8, that an error message lists
MAX_KEYS = 8  # of a row, that an error message lists


@dataclass(frozen=True)
class Rows:
    """The rows of a source, of one kind: in the order of the file, or of the sorted file names in a directory.

    Attributes:
        faults: what was left out: the number of an entry, from 0, and why it is no row.
        ignored: what in rows has no meaning ("id", a key), and the number of rows that hold it.
    """

    kind: Kind
    rows: list[AnyRow]
    faults: dict[int, Fault] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)

    def entry(self, index: int) -> int:
        """The number, from 0, of the entry in the source that row `index` was made of."""
        for left_out in sorted(self.faults):
            index += left_out <= index
        return index


@dataclass(frozen=True)
class Source:
    """The files that `data.source` names.

    Attributes:
        form: "directory", or one of `form_of`.
        names: the directory's files, relative to `path`, sorted; empty for the other forms.
        skipped: number of files in the directory that were left out: broken links, and binary files (with a NUL byte).
    """

    path: Path
    form: str
    names: tuple[str, ...] = ()
    skipped: int = 0

    @property
    def files(self) -> list[Path]:
        return [self.path / name for name in self.names] if self.form == "directory" else [self.path]

    @property
    def is_text(self) -> bool:
        """True for a text file or a directory of them. A file of rows isn't, even if its rows are texts."""
        return self.form in ("text", "directory")

    def digest(self) -> str:
        """Hash of the content, 32 hex digits; of a directory's file names too, but not of a single file's name."""
        if self.form != "directory":
            return digest(read_chunks(self.path))
        pairs = zip(self.names, self.files, strict=True)
        return digest(part for name, file in pairs for part in (os.fsencode(name), digest(read_chunks(file)).encode()))

    def rows(
        self, columns: Mapping[str, str] | None = None, *, drop_bad: bool = False, limit: int | None = None
    ) -> Rows:
        """Read and check the rows.

        Args:
            columns: our name of a key -> the file's.
            drop_bad: leave bad rows out, rather than refuse the file.
            limit: read only so many rows, or texts; None: all.

        Raises:
            Refused: a damaged file, no rows, bad rows (names the first ones and the number of all), or columns that
                aren't there.
        """
        if self.is_text and columns:
            raise refuse(COLUMNS_KEY, f"a text has no columns: {self.path}", f"leave {COLUMNS_KEY} out")
        if self.is_text:
            found = Rows(TEXT, _text_rows(self.files[:limit]))
        else:
            found = self._rows(list(islice(self._entries(), limit)), columns or {})
        if found.faults and not (drop_bad and found.rows):
            raise self.refusal(found.faults, found.kind, len(found.rows) + len(found.faults))
        if not found.rows:
            raise refuse(KEY, f"the data set is empty: {self.path}", REMEDY if self.is_text else found.kind.shape)
        return found

    def _entries(self) -> Iterator[Any]:
        """What may be rows; a Fault for what can't be parsed."""
        if self.form == "lines":
            return (entry for _, entry in parse_lines(self.path))
        if self.form == "table":
            return (entry for _, entry in parse_table(self.path))
        if self.form == "parquet":
            return parse_parquet(self.path)
        return iter((parse_list if self.form == "list" else parse_objects)(self.path))

    def _rows(self, entries: list[Any], columns: Mapping[str, str]) -> Rows:
        """The rows of entries, which are replaced one by one: a large file isn't held twice."""
        kinds = _kinds_for(columns)
        if columns:
            _rename(entries, columns)
        kind = kind_of(entries, kinds)
        if kind is None:
            _refuse_a_single_object(self.path, entries)
            kind = self._kind_by_name(entries, kinds)
        ignored, faults = unknown_keys(entries, kind), {}
        for index, entry in enumerate(entries):
            entries[index] = row = read_row(entry, kind, ignored)
            if isinstance(row, Fault):
                faults[index] = row
        return Rows(
            kind, [row for row in entries if not isinstance(row, Fault)] if faults else entries, faults, ignored
        )

    def _kind_by_name(self, entries: Sequence[Any], kinds: Sequence[Kind]) -> Kind:
        """The kind whose key an entry has, though it holds nothing. Raises Refused if no key of an object is known."""
        index, first = next(((i, entry) for i, entry in enumerate(entries) if isinstance(entry, dict)), (0, None))
        if first is None or len(kinds) < len(KINDS):  # with data.columns the kind is known
            return ALPACA if ALPACA in kinds else kinds[0]
        if named := [kind for kind in kinds if not first.keys().isdisjoint(kind.marks)]:
            return named[0]
        keys = ", ".join([json.dumps(key, ensure_ascii=False) for key in islice(first, MAX_KEYS)]) or "none"
        what = f"row {index + 1}: of no known kind: its keys are {keys}{', …' if len(first) > MAX_KEYS else ''}"
        remedy = f"{FORMS}; {COLUMNS_KEY}={{prompt: NAME, response: NAME}} reads these two from NAME"
        raise refuse(self.where(index), what, remedy)

    def refusal(self, faults: Mapping[int, Fault], kind: Kind, count: int) -> Refused:
        """Of bad rows, of `count` in all: the first ones are named."""
        problems = self.problems(faults)
        shown = (faults[index] for index in sorted(faults)[:MAX_PROBLEMS])
        remedies = [*dict.fromkeys(fault.remedy or kind.shape for fault in shown)]
        if len(faults) < count:
            remedies.append("data.bad_rows=drop leaves bad rows out")
        if kind.shape in remedies:
            remedies.append(f"{COLUMNS_KEY}={{KEY: NAME}} reads KEY from NAME")
        what = f"{problems[-1].what} ({len(faults)} of {count} rows are bad)"
        problems[-1] = Problem(problems[-1].where, what, "; ".join(remedies))
        return Refused(problems)

    def problems(self, faults: Mapping[int, Fault]) -> list[Problem]:
        """The first bad rows: where each is, by file, line and number, and what is wrong."""
        found = []
        for index, fault in islice(sorted(faults.items()), MAX_PROBLEMS):
            where = f"{self.where(index)}:{fault.column}" if fault.column else self.where(index)
            found.append(Problem(where, f"row {index + 1}: {fault.why}"))
        return found

    def where(self, index: int) -> str:
        """Where entry `index` begins, as file:line. Reads the file again: for error messages only."""
        if self.form == "directory":
            return f"{self.files[index]}:1"
        if self.form == "parquet":
            return str(self.path)
        if self.form == "text":
            return f"{self.path}:1"
        tables = {"lines": parse_lines, "table": parse_table}
        found = tables.get(self.form)
        lines = entry_lines(self.path) if found is None else (line for line, _ in found(self.path))
        return f"{self.path}:{next(islice(lines, index, None))}"


def read_source(source: str | None) -> Source:
    """Locate `source`, a path or pkg:// URI as in the config, and list its files without parsing them.

    Raises:
        Refused: it is None, the path doesn't exist or can't be read, or what is there is neither rows nor text.
    """
    if source is None:
        remedy = f"{KEY}=FILE (.json, .jsonl, .csv, .parquet, .txt) or a directory of texts, or data=sample"
        raise refuse(KEY, "no data set is given", remedy)
    path = locate(source, KEY)
    try:
        return _read_directory(path) if path.is_dir() else Source(path, form_of(path))
    except OSError as error:
        raise refuse(KEY, f"cannot be read: {error.filename} ({error.strerror})", REMEDY) from None


def digest(parts: Iterable[bytes]) -> str:
    """BLAKE2b of the parts, 32 hex digits: an MLflow dataset digest takes up to 36 characters."""
    hashed = blake2b(digest_size=16)
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()


def _kinds_for(columns: Mapping[str, str]) -> list[Kind]:
    """The kinds of row that the columns may belong to. Raises Refused if there is none."""
    if kinds := kinds_with(columns):
        return kinds
    unknown = [name for name in columns if name not in NAMES]
    what = f"a row has no {unknown[0]!r}" if unknown else f"no kind of row has {', '.join(map(repr, columns))} together"
    remedy = f"{COLUMNS_KEY}={{prompt: NAME, response: NAME}} reads these two from NAME; others are {', '.join(NAMES)}"
    raise refuse(COLUMNS_KEY, what, remedy)


def _rename(entries: list[Any], columns: Mapping[str, str]) -> None:
    """Give the columns our names, in place. Raises Refused if no row has one of them."""
    rows = [entry for entry in entries if isinstance(entry, dict)]
    present = set().union(*map(tuple, rows))
    for name in columns.values():
        if rows and name not in present:
            raise refuse(
                COLUMNS_KEY, f"no row has a {name!r}", f"the rows have {', '.join(map(repr, sorted(present)))}"
            )
    for entry in rows:
        taken = {ours: entry.pop(theirs) for ours, theirs in columns.items() if theirs in entry}
        entry.update(taken)


def _refuse_a_single_object(path: Path, entries: list[Any]) -> None:
    """Raise Refused for a file of one object that holds the list of rows under some key."""
    if len(entries) == 1 and isinstance(entries[0], dict):
        key = next((key for key, value in entries[0].items() if isinstance(value, list)), None)
        if key is not None:
            remedy = f"give the list alone: jq .{key} {path.name} > rows.json"
            raise refuse(f"{path}:1", f"not a list of rows but an object that has one as its {key!r}", remedy)


def _read_directory(path: Path) -> Source:
    """All text files below `path`, sorted by name; hidden files and folders (.git) are left out."""
    names: list[str] = []
    for folder, folders, files in os.walk(path, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [str((Path(folder) / name).relative_to(path)) for name in files if not name.startswith(".")]
    files = [name for name in sorted(names) if (path / name).is_file()]
    refuse_directory_of_rows(path, files)
    texts = [name for name in files if not any(b"\0" in chunk for chunk in read_chunks(path / name))]  # git's rule
    return Source(path, "directory", tuple(texts), skipped=len(names) - len(texts))


def _raise(error: OSError) -> None:
    raise error


def _text_rows(files: Sequence[Path]) -> list[AnyRow]:
    """One row a file. Raises Refused, naming the files that aren't UTF-8."""
    rows: list[AnyRow] = []
    problems: list[Problem] = []
    for file in files:
        try:
            rows.append(scan_text(file))
        except NotUtf8 as error:
            problems.append(Problem(f"{file}:{error.line}", f"not UTF-8: {error}", NOT_UTF8))
    if problems:
        more = len(problems) - MAX_PROBLEMS
        last = Problem(KEY, f"{more} more files are not UTF-8", "save them as UTF-8, or move them out of the directory")
        raise Refused([*problems[:MAX_PROBLEMS], *([last] if more > 0 else [])])
    return rows
