"""Encoded documents, laid end to end, with the target of every position."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.schema.llama import IGNORE_INDEX

TOKENS_AT_A_TIME = 1 << 20  # that are held before they are written


@dataclass(frozen=True)
class Documents:
    """Encoded rows, laid end to end.

    Attributes:
        ids: int32 [tokens].
        labels: int32 [tokens]; labels[t] is the token to predict at t, already shifted: ids[t + 1], or -100 where it
            doesn't count. The last position of a document never counts.
        lengths: int64 [documents].
        rows: int64 [documents], the index of the row that a document came from.
        loss_tokens: int64 [documents], how many of a document's labels count.
        truncated: how many were cut to the limit.
        split: how many rows were cut into several documents.
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    lengths: NDArray[np.int64]
    rows: NDArray[np.int64]
    loss_tokens: NDArray[np.int64]
    truncated: int
    split: int

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each document begins in `ids`: int64 [documents]."""
        return np.cumsum(self.lengths) - self.lengths


class Gathered:
    """Documents while they are made. What they consist of goes to files without a name, since it may exceed memory."""

    def __init__(self, scratch: Path) -> None:
        """
        Args:
            scratch: directory on whose disk there is room for 8 bytes a token.
        """
        self.truncated = self.split = 0
        ids, labels = (TemporaryFile(dir=scratch) for _ in range(2))  # noqa: SIM115  # gone with what maps them
        self._files = [cast(BinaryIO, ids), cast(BinaryIO, labels)]
        self._pieces: list[NDArray[np.int32]] = []  # of the documents that aren't in the files yet
        self._counted: list[bool] = []  # of each piece
        self._waiting: list[int] = []  # their lengths
        self._tokens = 0
        self._lengths: list[int] = []  # of each document
        self._rows: list[int] = []
        self._loss_tokens: list[NDArray[np.int64]] = []

    def add(self, row: int, pieces: Sequence[tuple[Sequence[int] | NDArray[np.int32], bool]]) -> None:
        """One more document: stretches of ids, and whether the loss counts them."""
        length = sum(len(ids) for ids, _ in pieces)
        self._pieces += [np.asarray(ids, np.int32) for ids, _ in pieces]
        self._counted += [counted for _, counted in pieces]
        self._waiting.append(length)
        self._lengths.append(length)
        self._rows.append(row)
        self._tokens += length
        if self._tokens >= TOKENS_AT_A_TIME:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        sizes = np.array([len(piece) for piece in self._pieces], np.int64)
        ids, lengths = np.concatenate(self._pieces), np.array(self._waiting, np.int64)
        labels = next_tokens(ids, lengths, np.repeat(np.array(self._counted, np.bool_), sizes))
        counts = np.add.reduceat(labels != IGNORE_INDEX, np.cumsum(lengths) - lengths, dtype=np.int64)
        self._loss_tokens.append(counts)
        for file, array in zip(self._files, (ids, labels), strict=True):
            array.tofile(file)
        self._pieces, self._counted, self._waiting, self._tokens = [], [], [], 0

    def documents(self) -> Documents:
        self._flush()
        lengths = np.array(self._lengths, np.int64)
        total = int(lengths.sum())
        nothing = np.zeros(0, np.int32)
        ids, labels = (np.memmap(file, np.int32, "r", shape=total) if total else nothing for file in self._files)
        loss_tokens = np.concatenate([np.zeros(0, np.int64), *self._loss_tokens])
        return Documents(ids, labels, lengths, np.array(self._rows, np.int64), loss_tokens, self.truncated, self.split)


def next_tokens(ids: NDArray[np.int32], lengths: NDArray[np.int64], counted: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Targets of documents laid end to end: int32 [tokens].

    Args:
        counted: bool [tokens], whether the loss is to count this token, where it is the next one.
    """
    last = positions_within(lengths) + 1 == np.repeat(lengths, lengths)
    return np.where(np.roll(counted, -1) & ~last, np.roll(ids, -1), np.int32(IGNORE_INDEX))


def positions_within(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2, … in each of the runs with these lengths, end to end: int64 [sum of lengths]."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum(), dtype=np.int64) - np.repeat(starts, lengths)
