"""What `data.source` names: a JSON file of rows, a text, or a directory of texts; its content, rows and lines."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from dscoder_exp.data.json_rows import line_starts, list_starts, parse_lines, parse_list
from dscoder_exp.data.rows import TEXT, AnyRow, Fault, Kind, fault_of, kind_of
from dscoder_exp.data.text_files import NotUtf8, TextFile, look_at, read_pieces
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
    """A source's files.

    Attributes:
        form: "lines", "list", "text" or "directory".
        names: of a directory's files, relative to it.
        skipped: files of a directory that were left out: links to nowhere, and what holds a NUL byte, so is no text.
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
        """Whether it can be nothing but text; a JSON file may hold texts too."""
        return self.form in ("text", "directory")

    def digest(self) -> str:
        """A name for the content, 32 hex digits. A file's own name isn't part of it, those in a directory are."""
        if self.form != "directory":
            return digest(read_pieces(self.path))
        pairs = zip(self.names, self.files, strict=True)
        return digest(part for name, file in pairs for part in (name.encode(), digest(read_pieces(file)).encode()))

    def rows(self) -> Rows:
        """Raises Refused: not UTF-8, not JSON, no row in it, or bad rows (the first ones' lines, and how many)."""
        found = Rows(TEXT, _text_rows(self.files)) if self.is_text else self._json_rows(_decoded(self.path))
        if not found.rows:
            raise refuse(KEY, f"the data set is empty: {self.path}", GIVE if self.is_text else found.kind.shape)
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
            return f"{self.files[index]}:1"
        if self.form == "text":
            return f"{self.path}:1"
        text = _decoded(self.path)
        starts = line_starts(text) if self.form == "lines" else list_starts(text)
        return f"{self.path}:{next(islice(starts, index, None))}"


def read_source(source: str) -> Source:
    """What a path, or pkg:// as in the config, leads to. A text's content is left for later.

    Raises:
        Refused: nothing lies there, or it can't be read.
    """
    path = locate(source, KEY)
    try:
        if path.is_dir():
            return _read_directory(path)
        path.open("rb").close()
        form = "text" if path.suffix.lower() in TEXT_SUFFIXES else "lines" if path.suffix == ".jsonl" else "list"
        return Source(path, form)
    except OSError as error:
        raise refuse(KEY, f"cannot be read: {error.filename} ({error.strerror})", GIVE) from None


def digest(parts: Iterable[bytes]) -> str:
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
    files = [name for name in sorted(names) if (path / name).is_file()]
    texts = [name for name in files if not any(b"\0" in piece for piece in read_pieces(path / name))]  # as git does
    return Source(path, "directory", tuple(texts), skipped=len(names) - len(texts))


def _raise(error: OSError) -> None:
    raise error


def _decoded(path: Path) -> str:
    """A file's text, without a byte order mark. Raises Refused where it isn't UTF-8."""
    try:
        return "".join(TextFile(path, "", blank=False).text())
    except NotUtf8 as error:
        raise Refused([_not_utf8(path, error)]) from None


def _text_rows(files: Sequence[Path]) -> list[AnyRow]:
    """Raises Refused for those that aren't UTF-8."""
    rows: list[AnyRow] = []
    problems: list[Problem] = []
    for file in files:
        try:
            rows.append(look_at(file))
        except NotUtf8 as error:
            problems.append(_not_utf8(file, error))
    if problems:
        more = len(problems) - SHOWN
        last = Problem(KEY, f"{more} more files are not UTF-8", "save them so, or leave them out")
        raise Refused([*problems[:SHOWN], *([last] if more > 0 else [])])
    return rows


def _not_utf8(file: Path, error: NotUtf8) -> Problem:
    return Problem(f"{file}:{error.line}", f"not UTF-8: {error}", "save the file as UTF-8")
