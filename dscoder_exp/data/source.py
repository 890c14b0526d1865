"""What `data.source` names: a JSON file of rows, a text, or a directory of texts; its content, rows and lines."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from dscoder_exp.data.json_rows import line_starts, list_starts, parse_lines, parse_list
from dscoder_exp.data.rows import TEXT, AnyRow, Fault, Kind, Text, fault_of, kind_of
from dscoder_exp.hub.locate import locate
from dscoder_exp.schema.errors import Problem, Refused, refuse

KEY = "data.source"
GIVE = f"give {KEY} a .json or .jsonl file of rows, a .txt or .md file, or a directory of text files"
SHOWN = 3  # bad rows that a refusal names
TEXT_SUFFIXES = (".txt", ".md")


@dataclass(frozen=True)
class Rows:
    """A source's rows, all of one kind, in the file's order, a directory's by the names of its files."""

    kind: Kind
    rows: list[AnyRow]


@dataclass(frozen=True)
class Source:
    """A source's bytes.

    Attributes:
        form: "lines", "list", "text" or "directory".
        files: the content by name; a directory's are relative to it.
        skipped: files of a directory that were left out: links to nowhere, and what holds a NUL byte, so is no text.
    """

    path: Path
    form: str
    files: Mapping[str, bytes]
    skipped: int = 0

    @property
    def is_text(self) -> bool:
        """Whether it can be nothing but text; a JSON file may hold texts too."""
        return self.form in ("text", "directory")

    def digest(self) -> str:
        """A name for the content, 32 hex digits. A file's own name isn't part of it, those in a directory are."""
        if self.form != "directory":
            return digest(*self.files.values())
        parts = (part for name, raw in self.files.items() for part in (name.encode(), digest(raw).encode()))
        return digest(*parts)

    def rows(self) -> Rows:
        """Raises Refused: not UTF-8, not JSON, no row in it, or bad rows (the first ones' lines, and how many)."""
        texts = _decoded(self)
        if self.is_text:
            found = Rows(TEXT, [Text(text) for text in texts.values()])
        else:
            found = self._json_rows(*texts.values())
        if not found.rows:
            raise refuse(KEY, f"the data set is empty: {self.path}", found.kind.shape if self.files else GIVE)
        return found

    def _json_rows(self, text: str) -> Rows:
        entries = parse_lines(text) if self.form == "lines" else parse_list(text, self.path)
        kind = kind_of(entries)
        faults = {index: fault for index, entry in enumerate(entries) if (fault := fault_of(entry, kind))}
        if faults:
            raise self._refusal(faults, len(entries), kind)
        return Rows(kind, [kind.make(entry) for entry in entries])

    def _refusal(self, faults: dict[int, Fault], count: int, kind: Kind) -> Refused:
        shown = [
            (f"{self.where(index)}:{fault.column}" if fault.column else self.where(index), fault.why)
            for index, fault in islice(faults.items(), SHOWN)
        ]
        problems = [Problem(where, why) for where, why in shown[:-1]]
        where, why = shown[-1]
        return Refused([*problems, Problem(where, f"{why} ({len(faults)} of {count} rows are bad)", kind.shape)])

    def where(self, index: int) -> str:
        """The file:line at which a row begins."""
        if self.form == "directory":
            return f"{self.path / list(self.files)[index]}:1"
        if self.form == "text":
            return f"{self.path}:1"
        (text,) = _decoded(self).values()
        starts = line_starts(text) if self.form == "lines" else list_starts(text)
        return f"{self.path}:{next(islice(starts, index, None))}"


def read_source(source: str) -> Source:
    """The content that a path, or pkg:// as in the config, leads to.

    Raises:
        Refused: nothing lies there, or it can't be read.
    """
    path = locate(source, KEY)
    try:
        if path.is_dir():
            return _read_directory(path)
        form = "text" if path.suffix.lower() in TEXT_SUFFIXES else "lines" if path.suffix == ".jsonl" else "list"
        return Source(path, form, {path.name: path.read_bytes()})
    except OSError as error:
        raise refuse(KEY, f"cannot be read: {error.filename} ({error.strerror})", GIVE) from None


def digest(*parts: bytes) -> str:
    """32 hex digits: an MLflow dataset digest takes up to 36 characters."""
    hashed = blake2b(digest_size=16)
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()


def _read_directory(path: Path) -> Source:
    """All files below, hidden ones (.git) left alone, in the order of their names."""
    names: list[str] = []
    for folder, folders, files in os.walk(path, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [str((Path(folder) / name).relative_to(path)) for name in files if not name.startswith(".")]
    content = {name: (path / name).read_bytes() for name in sorted(names) if (path / name).is_file()}
    texts = {name: raw for name, raw in content.items() if b"\0" not in raw}  # git tells texts from others so
    return Source(path, "directory", texts, skipped=len(names) - len(texts))


def _raise(error: OSError) -> None:
    raise error


def _decoded(source: Source) -> dict[str, str]:
    """Each file's text, without a byte order mark. Raises Refused for those that aren't UTF-8."""
    texts: dict[str, str] = {}
    problems: list[Problem] = []
    for name, raw in source.files.items():
        try:
            texts[name] = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            path = source.path / name if source.form == "directory" else source.path
            problems.append(Problem(f"{path}:{line}", f"not UTF-8: {error.reason}", "save the file as UTF-8"))
    if problems:
        more = len(problems) - SHOWN
        last = Problem(KEY, f"{more} more files are not UTF-8", "save them so, or leave them out")
        raise Refused([*problems[:SHOWN], *([last] if more > 0 else [])])
    return texts
