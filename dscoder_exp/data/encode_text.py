"""Encoding texts in overlapping windows, so that neither a text nor its tokens have to fit into memory.

Two neighbouring windows are joined inside their overlap, at a character where a token begins in both: there the
tokenizer has split the text as it would have split the whole.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.data.documents import DocumentBuilder
from dscoder_exp.data.prompt_format import PromptFormat
from dscoder_exp.data.rows import Text
from dscoder_exp.data.text_files import TextFile

if TYPE_CHECKING:
    from tokenizers import Tokenizer

OVERLAP = 512  # characters that a window extends beyond the boundary with a neighbour
BATCH_CHARACTERS = 1 << 21  # encoded in one call, on all cores; bounds the memory


class Window(NamedTuple):
    """A part of a text that overlaps the windows before and after it.

    Attributes:
        row: index of the text's row.
        start: offset of the window's first character in the text.
        boundary: offset in the text, near which the window is joined to the previous one; 0 in the first window.
        last: this is the last window of its text.
    """

    row: int
    start: int
    boundary: int
    text: str
    last: bool

    @property
    def is_whole(self) -> bool:
        """True if the window is its whole text."""
        return self.last and self.start == 0


@dataclass
class WindowTokens:
    """A window's tokens: ids, int32 [tokens], and the offset in the text where each begins, int64 [tokens]."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]

    def between(self, first: int, end: int | None) -> NDArray[np.int32]:
        """Ids of the tokens that begin at offsets [first, end); `end` None: to the end."""
        begin = np.searchsorted(self.starts, first)
        return self.ids[begin : len(self.ids) if end is None else np.searchsorted(self.starts, end)]


def add_texts(
    builder: DocumentBuilder,
    rows: Sequence[tuple[int, Text | TextFile]],
    prompt_format: PromptFormat,
    *,
    limit: int,
) -> None:
    """Add each text as a document: bos if the tokenizer adds it, the text's ids, eos. One above `limit` is split.

    Args:
        rows: (row index, text); texts that aren't blank.
        limit: the most tokens of a document, at least 2.
    """
    before: WindowTokens | None = None  # of the previous window, kept until it is joined to the next
    begin, spelt, splitter = 0, False, TextSplitter(builder, prompt_format.opening, limit)
    for window, tokens in _encode_windows(_windows_of(rows), prompt_format.text_tokenizer):
        prompt_format.refuse_beyond(tokens.ids)
        spelt = spelt or prompt_format.spells_special(window.text)
        if before is not None:
            end = _join_offset(before, tokens, window.boundary)
            splitter.add(window.row, before.between(begin, end))
            begin = end
        before = tokens
        if window.last:
            splitter.add(window.row, tokens.between(begin, None))
            splitter.end(window.row, prompt_format.eos_token_id)
            builder.spelt += spelt
            before, begin, spelt = None, 0, False


class TextSplitter:
    """Splits a text's ids into documents of at most `limit` tokens.

    Each document begins with the last token of the previous one, so that every token but the first is a target once.
    """

    def __init__(self, builder: DocumentBuilder, opening: Sequence[int], limit: int) -> None:
        self._builder, self._limit = builder, limit
        self._opening = np.array(opening, np.int32)
        self._ids, self._count = self._opening, 0

    def add(self, row: int, ids: NDArray[np.int32]) -> None:
        """Append ids to the text, and store the documents that are complete."""
        self._ids = np.concatenate([self._ids, ids])
        first, step = 0, self._limit - 1
        while len(self._ids) - first > self._limit:
            self._emit(row, self._ids[first : first + self._limit])
            first += step
        self._ids = self._ids[first:]

    def end(self, row: int, eos_token_id: int) -> None:
        """Append eos and store the text's last document."""
        self.add(row, np.array([eos_token_id], np.int32))
        if len(self._ids) > 1 or not self._count:
            self._emit(row, self._ids)
        self._builder.split += self._count > 1
        self._ids, self._count = self._opening, 0

    def _emit(self, row: int, ids: NDArray[np.int32]) -> None:
        self._builder.add(row, [(ids, True)])
        self._count += 1


def _windows_of(rows: Sequence[tuple[int, Text | TextFile]]) -> Iterator[Window]:
    for index, row in rows:
        yield from windows(index, row.text() if isinstance(row, TextFile) else [row.text])


def windows(row: int, chunks: Iterable[str]) -> Iterator[Window]:
    """Windows over a text that comes in chunks; each reaches OVERLAP characters beyond its boundaries."""
    start, boundary, text = 0, 0, ""
    for chunk in chunks:
        if len(text) > 4 * OVERLAP:
            yield Window(row, start, boundary, text, last=False)
            boundary = start + len(text) - OVERLAP
            start, text = boundary - OVERLAP, text[-2 * OVERLAP :]
        text += chunk
    yield Window(row, start, boundary, text, last=True)


def _encode_windows(windows: Iterable[Window], tokenizer: "Tokenizer") -> Iterator[tuple[Window, WindowTokens]]:
    """Encode windows in order, BATCH_CHARACTERS in one call."""
    batch: list[Window] = []
    size = 0
    for window in windows:
        batch.append(window)
        size += len(window.text)
        if size >= BATCH_CHARACTERS:
            yield from _encode_batch(batch, tokenizer)
            batch, size = [], 0
    yield from _encode_batch(batch, tokenizer)


def _encode_batch(batch: Sequence[Window], tokenizer: "Tokenizer") -> Iterator[tuple[Window, WindowTokens]]:
    """Encode windows in one batch. One that is its whole text needs no offsets: encode_batch_fast is faster without."""
    whole = [window for window in batch if window.is_whole]
    cut = [window for window in batch if not window.is_whole]
    fast = iter(tokenizer.encode_batch_fast([window.text for window in whole], add_special_tokens=False))
    with_offsets = iter(tokenizer.encode_batch([window.text for window in cut], add_special_tokens=False))
    for window in batch:
        if window.is_whole:
            ids = np.array(next(fast).ids, np.int32)
            yield window, WindowTokens(ids, np.zeros(len(ids), np.int64))
        else:
            encoding = next(with_offsets)
            starts = np.array(encoding.offsets, np.int64).reshape(-1, 2)[:, 0] + window.start
            yield window, WindowTokens(np.array(encoding.ids, np.int32), np.maximum.accumulate(starts))


def _join_offset(before: WindowTokens, after: WindowTokens, boundary: int) -> int:
    """The offset nearest to `boundary` where a token begins in both windows; `boundary` if there is none."""
    common = np.intersect1d(before.starts, after.starts)
    return int(common[np.argmin(np.abs(common - boundary))]) if len(common) else boundary
