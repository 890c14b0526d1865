"""Texts in files of their own, read a piece at a time: one may be larger than memory."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

PIECE = 1 << 18  # bytes that are read at once


@dataclass(frozen=True)
class TextFile:
    """A text to go on training with. Two are equal where their content is.

    Attributes:
        digest: of the content, without a byte order mark.
        blank: whether there is nothing to learn from it.
    """

    path: Path = field(compare=False)
    digest: str
    blank: bool = field(compare=False)

    def content(self) -> Iterator[bytes]:
        """The UTF-8, without a byte order mark."""
        first = True
        for piece in read_pieces(self.path):
            yield piece.removeprefix(codecs.BOM_UTF8) if first else piece
            first = False

    def text(self) -> Iterator[str]:
        """The content, decoded.

        Raises:
            NotUtf8: it isn't.
        """
        return _decoded(self.content())


class NotUtf8(ValueError):
    """A file's content isn't UTF-8, first in this line, counted from 1."""

    def __init__(self, line: int, reason: str) -> None:
        self.line = line
        super().__init__(reason)


def read_pieces(path: Path) -> Iterator[bytes]:
    """A file's bytes."""
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def look_at(path: Path) -> TextFile:
    """What is to be known of a text before it is used, from one pass over it.

    Raises:
        NotUtf8: it isn't.
    """
    hashed, blank = blake2b(), True
    for text in TextFile(path, "", blank=False).text():
        hashed.update(text.encode())
        blank = blank and not text.strip()
    return TextFile(path, hashed.hexdigest(), blank)


def _decoded(content: Iterator[bytes]) -> Iterator[str]:
    decoder, lines = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        for piece in content:
            text = decoder.decode(piece)
            yield text
            lines += text.count("\n")
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        line = lines + error.object.count(b"\n", 0, error.start) + 1
        raise NotUtf8(line, error.reason) from None
