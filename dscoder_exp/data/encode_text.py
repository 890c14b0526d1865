"""Texts to token ids, a piece at a time: neither a text nor its tokens have to fit into memory.

A piece is encoded with a stretch of its neighbours, and two pieces are joined at a place inside of it where both have
cut the text: there a tokenizer has done what it would have done with the text as a whole.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.data.documents import Gathered
from dscoder_exp.data.rows import Text
from dscoder_exp.data.text_files import TextFile

if TYPE_CHECKING:
    from tokenizers import Tokenizer

OVERLAP = 512  # characters of the next piece that a piece is encoded with, and of the one before it
AT_ONCE = 1 << 21  # characters that are encoded in one call, on all cores: bounds the memory


class Window(NamedTuple):
    """A part of a text, which overlaps its neighbours.

    Attributes:
        row: index of the text.
        start: of its first character in the text.
        seam: the place, counted in the text, around which it is joined with the window before it; 0 in the first one.
        last: of its text.
    """

    row: int
    start: int
    seam: int
    text: str
    last: bool

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its text."""
        return self.last and self.start == 0


@dataclass
class Tokens:
    """A window's: int32 ids and, int64, where each begins in the text."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]

    def between(self, first: int, end: int | None) -> NDArray[np.int32]:
        """Ids of the tokens that begin in [first, end)."""
        begin = np.searchsorted(self.starts, first)
        return self.ids[begin : len(self.ids) if end is None else np.searchsorted(self.starts, end)]


def add_texts(
    found: Gathered,
    rows: Sequence[tuple[int, Text | TextFile]],
    tokenizer: "Tokenizer",
    *,
    opening: Sequence[int],
    eos_token_id: int,
    limit: int,
) -> None:
    """Adds texts' documents: `opening`, the text's ids, eos; cut into several where they exceed `limit`.

    Args:
        rows: (index, text) of those that aren't blank.
        limit: the most tokens a document may have, at least 2.
    """
    before: Tokens | None = None  # of the window before, whose end isn't known yet
    begins, parts = 0, Parts(found, opening, limit)
    for window, tokens in _encoded(_all_windows(rows), tokenizer):
        if before is not None:
            joint = _joint(before, tokens, window.seam)
            parts.add(window.row, before.between(begins, joint))
            begins = joint
        before = tokens
        if window.last:
            parts.add(window.row, tokens.between(begins, None))
            parts.end(window.row, eos_token_id)
            before, begins = None, 0


class Parts:
    """Cuts a text's ids into documents of at most `limit` tokens.

    Each begins with the last token of the one before, so that every token but the first is a target once.
    """

    def __init__(self, found: Gathered, opening: Sequence[int], limit: int) -> None:
        self._found, self._limit = found, limit
        self._opening = np.array(opening, np.int32)
        self._ids, self._count = self._opening, 0

    def add(self, row: int, ids: NDArray[np.int32]) -> None:
        self._ids = np.concatenate([self._ids, ids])
        first, step = 0, self._limit - 1
        while len(self._ids) - first > self._limit:
            self._take(row, self._ids[first : first + self._limit])
            first += step
        self._ids = self._ids[first:]

    def end(self, row: int, eos_token_id: int) -> None:
        self.add(row, np.array([eos_token_id], np.int32))
        if len(self._ids) > 1 or not self._count:
            self._take(row, self._ids)
        self._found.split += self._count > 1
        self._ids, self._count = self._opening, 0

    def _take(self, row: int, ids: NDArray[np.int32]) -> None:
        self._found.add(row, [(ids, True)])
        self._count += 1


def _all_windows(rows: Sequence[tuple[int, Text | TextFile]]) -> Iterator[Window]:
    for index, row in rows:
        yield from windows(index, row.text() if isinstance(row, TextFile) else [row.text])


def windows(row: int, pieces: Iterable[str]) -> Iterator[Window]:
    """A text's pieces, each with OVERLAP characters of those beside it."""
    start, seam, text = 0, 0, ""
    for piece in pieces:
        if len(text) > 4 * OVERLAP:
            yield Window(row, start, seam, text, last=False)
            seam = start + len(text) - OVERLAP
            start, text = seam - OVERLAP, text[-2 * OVERLAP :]
        text += piece
    yield Window(row, start, seam, text, last=True)


def _encoded(windows: Iterable[Window], tokenizer: "Tokenizer") -> Iterator[tuple[Window, Tokens]]:
    """In order; many in one call."""
    batch: list[Window] = []
    size = 0
    for window in windows:
        batch.append(window)
        size += len(window.text)
        if size >= AT_ONCE:
            yield from _encoded_batch(batch, tokenizer)
            batch, size = [], 0
    yield from _encoded_batch(batch, tokenizer)


def _encoded_batch(batch: Sequence[Window], tokenizer: "Tokenizer") -> Iterator[tuple[Window, Tokens]]:
    """A text that is whole in one window needs no places, and is encoded the faster for it."""
    whole = [window for window in batch if window.is_whole]
    cut = [window for window in batch if not window.is_whole]
    fast = iter(tokenizer.encode_batch_fast([window.text for window in whole], add_special_tokens=False))
    placed = iter(tokenizer.encode_batch([window.text for window in cut], add_special_tokens=False))
    for window in batch:
        if window.is_whole:
            ids = np.array(next(fast).ids, np.int32)
            yield window, Tokens(ids, np.zeros(len(ids), np.int64))
        else:
            encoding = next(placed)
            starts = np.array(encoding.offsets, np.int64).reshape(-1, 2)[:, 0] + window.start
            yield window, Tokens(np.array(encoding.ids, np.int32), np.maximum.accumulate(starts))


def _joint(before: Tokens, after: Tokens, seam: int) -> int:
    """The place nearest to the seam where a token begins in both; the seam itself where there is none."""
    common = np.intersect1d(before.starts, after.starts)
    return int(common[np.argmin(np.abs(common - seam))]) if len(common) else seam
