"""The data set that `data.source` names: a JSON file of rows, a text file, or a directory of text files."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from dscoder_exp.data.json_rows import line_starts, list_starts, parse_lines, parse_list
from dscoder_exp.data.rows import TEXT, AnyRow, Fault, Kind, fault_of, kind_of
from dscoder_exp.data.text_files import NotUtf8, TextFile, read_chunks, scan_text
from dscoder_exp.hub.locate import locate
from dscoder_exp.schema.errors import Problem, Refused, refuse

KEY = "data.source"
REMEDY = f"set {KEY} to a .json or .jsonl file of rows, a .txt or .md file, or a directory of text files"
MAX_PROBLEMS = 3  # bad rows, or files that aren't UTF-8, that an error message lists
TEXT_SUFFIXES = (".txt", ".md")


@dataclass(frozen=True)
class Rows:
    """All rows of a source, of one kind: in the order of the file, or of the sorted file names in a directory."""

    kind: Kind
    rows: list[AnyRow]


@dataclass(frozen=True)
class Source:
    """The files that `data.source` names.

    Attributes:
        form: "lines" (JSON lines), "list" (a JSON list), "text" or "directory".
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
        """True for a text file or a directory of them. A JSON file isn't, even if its rows are texts."""
        return self.form in ("text", "directory")

    def digest(self) -> str:
        """Hash of the content, 32 hex digits; of a directory's file names too, but not of a single file's name."""
        if self.form != "directory":
            return digest(read_chunks(self.path))
        pairs = zip(self.names, self.files, strict=True)
        return digest(part for name, file in pairs for part in (name.encode(), digest(read_chunks(file)).encode()))

    def rows(self) -> Rows:
        """Read and check every row.

        Raises:
            Refused: not UTF-8, not JSON, no rows, or bad rows (names the first lines and the number of all).
        """
        found = Rows(TEXT, _text_rows(self.files)) if self.is_text else self._json_rows(_decoded(self.path))
        if not found.rows:
            raise refuse(KEY, f"the data set is empty: {self.path}", REMEDY if self.is_text else found.kind.shape)
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
            for index, fault in islice(faults.items(), MAX_PROBLEMS)
        ]
        problems = [Problem(where, why) for where, why in shown[:-1]]
        where, why = shown[-1]
        return Refused([*problems, Problem(where, f"{why} ({len(faults)} of {count} rows are bad)", kind.shape)])

    def where(self, index: int) -> str:
        """Where row `index` begins, as file:line. Reads the file again: for error messages only."""
        if self.form == "directory":
            return f"{self.files[index]}:1"
        if self.form == "text":
            return f"{self.path}:1"
        text = _decoded(self.path)
        starts = line_starts(text) if self.form == "lines" else list_starts(text)
        return f"{self.path}:{next(islice(starts, index, None))}"


def read_source(source: str) -> Source:
    """Locate `source`, a path or pkg:// URI as in the config, and list its files without parsing them.

    Raises:
        Refused: the path doesn't exist or can't be read.
    """
    path = locate(source, KEY)
    try:
        if path.is_dir():
            return _read_directory(path)
        path.open("rb").close()
        form = "text" if path.suffix.lower() in TEXT_SUFFIXES else "lines" if path.suffix == ".jsonl" else "list"
        return Source(path, form)
    except OSError as error:
        raise refuse(KEY, f"cannot be read: {error.filename} ({error.strerror})", REMEDY) from None


def digest(parts: Iterable[bytes]) -> str:
    """BLAKE2b of the parts, 32 hex digits: an MLflow dataset digest takes up to 36 characters."""
    hashed = blake2b(digest_size=16)
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()


def _read_directory(path: Path) -> Source:
    """All text files below `path`, sorted by name; hidden files and folders (.git) are left out."""
    names: list[str] = []
    for folder, folders, files in os.walk(path, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [str((Path(folder) / name).relative_to(path)) for name in files if not name.startswith(".")]
    files = [name for name in sorted(names) if (path / name).is_file()]
    texts = [name for name in files if not any(b"\0" in chunk for chunk in read_chunks(path / name))]  # git's rule
    return Source(path, "directory", tuple(texts), skipped=len(names) - len(texts))


def _raise(error: OSError) -> None:
    raise error


def _decoded(path: Path) -> str:
    """The file's text without a byte order mark. Raises Refused if it isn't UTF-8."""
    try:
        return "".join(TextFile(path, "", blank=False).text())
    except NotUtf8 as error:
        raise Refused([_not_utf8(path, error)]) from None


def _text_rows(files: Sequence[Path]) -> list[AnyRow]:
    """One row a file. Raises Refused, naming the files that aren't UTF-8."""
    rows: list[AnyRow] = []
    problems: list[Problem] = []
    for file in files:
        try:
            rows.append(scan_text(file))
        except NotUtf8 as error:
            problems.append(_not_utf8(file, error))
    if problems:
        more = len(problems) - MAX_PROBLEMS
        last = Problem(KEY, f"{more} more files are not UTF-8", "save them as UTF-8, or move them out of the directory")
        raise Refused([*problems[:MAX_PROBLEMS], *([last] if more > 0 else [])])
    return rows


def _not_utf8(file: Path, error: NotUtf8) -> Problem:
    return Problem(f"{file}:{error.line}", f"not UTF-8: {error}", "save the file as UTF-8")
