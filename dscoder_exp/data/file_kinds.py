"""What a file holds, told by its first bytes, and by its name only where those can't tell: rows, text, or neither."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from dscoder_exp.schema.errors import Refused, refuse

KEY = "data.source"
REMEDY = (
    f"set {KEY} to rows (.json, .jsonl, .jsonl.gz, .csv, .tsv, .parquet), a .txt or .md file, or a directory of text "
    "files"
)
TEXT_SUFFIXES = (".txt", ".md")
TABLE_SUFFIXES = (".csv", ".tsv")
ROW_SUFFIXES = (".jsonl", ".ndjson", ".parquet", *TABLE_SUFFIXES)  # and each with .gz
PREPARED_SUFFIX, ARROW_SUFFIX = ".mindrecord", ".arrow"
METADATA_SUFFIXES = (".json", ".yaml", ".yml")  # of what lies beside the files of rows in data sets' directories
HEAD = 4096  # bytes that are looked at
BOM = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
PARQUET = b"PAR1"
# The first bytes of files that people give instead of rows (magic numbers: file(1); of Git LFS: its specification).
LFS = b"version https://git-lfs.github.com"
NOT_UTF8 = "save it as UTF-8: iconv -f GB18030 -t UTF-8 FILE > NEW (GB18030: Chinese; WINDOWS-1252: Western Europe)"
UTF_16 = ("UTF-16 text", "iconv -f UTF-16 -t UTF-8 FILE > NEW, then give NEW")
PREPARED = ("data that was prepared already", "give its directory as data.output, and what it was made of")
ARROW = ("an Arrow file", "save the table as .parquet or .jsonl (of datasets: to_parquet, to_json)")
HTML = ("a web page (HTML), not the file that it links to", "download the file itself")
KINDS = {
    LFS: ("a Git LFS pointer, not the file itself", "git lfs pull"),
    b"ARROW1": ARROW,
    b"\xff\xff\xff\xff": ARROW,  # a stream, as save_to_disk of Hugging Face's datasets writes it
    b"PK\x03\x04": ("a zip archive, as .xlsx and .npz are, too", "unpack it, or save the table as .csv"),
    b"\xd0\xcf\x11\xe0": ("an old Office file (.xls, .doc)", "save the table as .csv"),
    b"%PDF": ("a PDF", "extract its text into a .txt file"),
    b"SQLite format 3": ("an SQLite database", "export the table as .csv or .jsonl"),
    b"BZh91AY": ("compressed with bzip2", "bunzip2 it"),
    b"\xfd7zXZ": ("compressed with xz", "unxz it"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "unzstd it"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it"),
    b"\x89HDF": ("an HDF5 file", "save the rows as .parquet or .jsonl"),
    b"\x93NUMPY": ("a numpy array", "save the rows as .jsonl"),
    b"\x80": ("a pickle", "save the rows as .jsonl"),
    b"GGUF": ("a GGUF file, which holds a model's weights", f"give it as model.path; {REMEDY}"),
    b"\xff\xfe": UTF_16,
    b"\xfe\xff": UTF_16,
    b"<!DOCTYPE": HTML,
    b"<!doctype": HTML,
    b"<html": HTML,
    b"<?xml": ("XML", "save the rows as .jsonl"),
}
TAR = slice(257, 262)  # where a tar archive says so
A_LIST = re.compile(r'\[\s*\{\s*"')  # how a JSON list of objects begins
IN_A_ROW = {"messages", "conversations", "instruction", "prompt", "text"}  # a row of any kind has one of these keys


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file for reading, decompressed if it is gzip's, whatever its name.

    Raises:
        Refused: it is gzip's and damaged.
    """
    try:
        with gzip.open(path) if is_gzip(path) else path.open("rb") as file:
            yield cast(BinaryIO, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise refuse(KEY, f"damaged, or cut short: {path} ({error})", "copy or download the file again") from None


def is_gzip(path: Path) -> bool:
    """Whether the content is gzip's."""
    with path.open("rb") as file:
        return file.read(len(GZIP)) == GZIP


def form_of(path: Path) -> str:
    """How to read a file.

    Returns:
        "list" (a JSON list), "lines" (JSON lines), "objects" (JSON objects one after another), "table" (comma- or
        tab-separated), "parquet" or "text".

    Raises:
        Refused: it is of another kind, which the message names.
        OSError: it can't be read.
    """
    compressed = is_gzip(path)
    suffix = Path(path.stem if compressed and path.suffix == ".gz" else path.name).suffix.lower()
    with opened(path) as file:
        head = file.read(HEAD).removeprefix(BOM)
        start = head.lstrip()
        if head.startswith(PARQUET) and not compressed:
            return "parquet"
        if (found := _other_kind(head, start, suffix)) is not None:
            raise _refusal(path, *found)
        if suffix in TABLE_SUFFIXES:
            return "table"
        file.seek(0)
        form = _json_form(file, start, of_text=suffix in TEXT_SUFFIXES)
    if form is None and suffix in TEXT_SUFFIXES and not compressed:
        return "text"
    if form is None:
        begins = start[:20].decode("utf-8", "replace").split("\n")[0]
        what = "compressed text" if compressed else f"neither JSON nor a table: it begins with {begins!r}"
        raise _refusal(path, what, "unpack it" if compressed else "name plain text .txt or .md, a table .csv or .tsv")
    return form


def refuse_directory_of_rows(path: Path, names: Sequence[str]) -> None:
    """Raise Refused for a directory of files of rows, or of prepared data: as texts, what lies in it would be learnt.

    Args:
        names: its files; texts may lie beside the rows (a README), and metadata.
    """
    if any(name.endswith(PREPARED_SUFFIX) for name in names):
        raise _refusal(path, *PREPARED)
    others = [name for name in names if not name.lower().endswith(TEXT_SUFFIXES)]
    sure, unsure = (*ROW_SUFFIXES, ARROW_SUFFIX), METADATA_SUFFIXES
    if not all(name.lower().removesuffix(".gz").endswith((*sure, *unsure)) for name in others):
        return
    if (found := next((name for name in others if _holds_rows(path / name)), None)) is not None:
        what = f"a directory of files of rows, of which one can be given: {path}"
        raise refuse(KEY, what, f"{KEY}={path / found}")


def _holds_rows(path: Path) -> bool:
    """Whether a file's name says so, or it is JSON that begins with a row."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((*ROW_SUFFIXES, ARROW_SUFFIX)):
        return True
    if not name.endswith(".json"):
        return False
    with opened(path) as file:
        start = file.read(HEAD).removeprefix(BOM).lstrip()
        file.seek(0)
        return _json_form(file, start, of_text=True) is not None


def _other_kind(head: bytes, start: bytes, suffix: str) -> tuple[str, str] | None:
    """What a file is that holds no rows, and what to do; None if it may hold some."""
    if suffix == PREPARED_SUFFIX:
        return PREPARED
    if head[TAR] == b"ustar":
        return "a tar archive", "unpack it"
    if suffix in TEXT_SUFFIXES and not start.startswith(LFS):
        return None  # a text may begin with anything
    if (kind := next((kind for magic, kind in KINDS.items() if start.startswith(magic)), None)) is not None:
        return kind
    return ("binary, of no kind that is known here", REMEDY) if b"\0" in head else None


def _refusal(path: Path, what: str, remedy: str) -> Refused:
    return refuse(KEY, f"not rows, nor text: {path} is {what}", remedy)


def _json_form(file: BinaryIO, start: bytes, *, of_text: bool) -> str | None:
    """ "list", "lines" or "objects"; None if the file holds no JSON objects.

    Args:
        of_text: the file's name says that it is text: then it has to hold a row.
    """
    if not start:
        return None if of_text else "list"
    if start.startswith(b"["):
        return "list" if not of_text or A_LIST.match(start.decode("utf-8", "replace")) else None
    if not start.startswith(b"{"):
        return None
    lines = (line.strip() for line in file if line.strip())
    first = next(lines, b"").removeprefix(BOM).strip().decode("utf-8", "replace")
    second = next(lines, b"")
    try:
        row = json.loads(first)
    except json.JSONDecodeError as error:
        if of_text:
            return None
        goes_on = error.pos >= len(first) and second and not second.startswith(b"{")
        return "objects" if goes_on else "lines"
    except (RecursionError, ValueError):  # nested too deeply, or a number of thousands of digits
        return "lines"
    return "lines" if not of_text or IN_A_ROW & row.keys() else None
