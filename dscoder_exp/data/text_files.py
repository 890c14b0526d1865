"""Text files, read in chunks: a file may be larger than memory."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

CHUNK_BYTES = 1 << 18  # read at once


@dataclass(frozen=True)
class TextFile:
    """A text file to train on as plain text. Two are equal if their content is, whatever their paths.

    Attributes:
        digest: hash of the content, without a byte order mark.
        blank: the file is empty or holds nothing but white space.
    """

    path: Path = field(compare=False)
    digest: str
    blank: bool = field(compare=False)

    def content(self) -> Iterator[bytes]:
        """The file's bytes in chunks, without a byte order mark."""
        first = True
        for chunk in read_chunks(self.path):
            yield chunk.removeprefix(codecs.BOM_UTF8) if first else chunk
            first = False

    def text(self) -> Iterator[str]:
        """The content, decoded, in chunks.

        Raises:
            NotUtf8: the file isn't UTF-8.
        """
        return _decoded(self.content())


class NotUtf8(ValueError):
    """A file isn't UTF-8; `line`, counted from 1, holds the first invalid byte."""

    def __init__(self, line: int, reason: str) -> None:
        self.line = line
        super().__init__(reason)


def read_chunks(path: Path) -> Iterator[bytes]:
    """The file's bytes, at most CHUNK_BYTES at a time."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def scan_text(path: Path) -> TextFile:
    """Check that a file is UTF-8, hash it and look for text in it, in one pass.

    Raises:
        NotUtf8: the file isn't UTF-8.
    """
    hashed, blank = blake2b(), True
    for text in TextFile(path, "", blank=False).text():
        hashed.update(text.encode())
        blank = blank and not text.strip()
    return TextFile(path, hashed.hexdigest(), blank)


def _decoded(content: Iterator[bytes]) -> Iterator[str]:
    decoder, lines = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        for chunk in content:
            text = decoder.decode(chunk)
            yield text
            lines += text.count("\n")
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        line = lines + error.object.count(b"\n", 0, error.start) + 1
        raise NotUtf8(line, error.reason) from None
