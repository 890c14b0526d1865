"""Encoded documents, laid end to end, with the target of every position."""

from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

IGNORE_INDEX = -100  # the label of a position that the loss leaves out


@dataclass(frozen=True)
class Documents:
    """Encoded rows, laid end to end.

    Attributes:
        ids: int32 [tokens].
        labels: int32 [tokens]; labels[t] is the token to predict at t, already shifted: ids[t + 1], or -100 where it
            doesn't count. The last position of a document never counts.
        lengths: int64 [documents].
        rows: int64 [documents], the index of the row that a document came from.
        truncated: how many were cut to the limit.
        split: how many rows were cut into several documents.
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    lengths: NDArray[np.int64]
    rows: NDArray[np.int64]
    truncated: int
    split: int

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each document begins in `ids`: int64 [documents]."""
        return np.cumsum(self.lengths) - self.lengths


@dataclass
class Gathered:
    """Documents while they are made."""

    pieces: list[list[int]] = field(default_factory=list)
    counted: list[bool] = field(default_factory=list)  # of each piece
    lengths: list[int] = field(default_factory=list)  # of each document
    rows: list[int] = field(default_factory=list)
    truncated: int = 0
    split: int = 0

    def add(self, row: int, pieces: list[tuple[list[int], bool]]) -> None:
        """One more document: stretches of ids, and whether the loss counts them."""
        self.pieces += [ids for ids, _ in pieces]
        self.counted += [counted for _, counted in pieces]
        self.lengths.append(sum(len(ids) for ids, _ in pieces))
        self.rows.append(row)

    def documents(self) -> Documents:
        sizes = np.array([len(piece) for piece in self.pieces], np.int64)
        ids = np.fromiter(chain.from_iterable(self.pieces), np.int32, count=int(sizes.sum()))
        lengths = np.array(self.lengths, np.int64)
        labels = next_tokens(ids, lengths, np.repeat(np.array(self.counted, np.bool_), sizes))
        return Documents(ids, labels, lengths, np.array(self.rows, np.int64), self.truncated, self.split)


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
