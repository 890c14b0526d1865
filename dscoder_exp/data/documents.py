"""Encoded documents, concatenated, with the label of every position."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.schema.llama import IGNORE_INDEX

BUFFER_TOKENS = 1 << 20  # held in memory before they are written


@dataclass(frozen=True)
class Documents:
    """Encoded rows, concatenated.

    Attributes:
        ids: int32 [tokens].
        labels: int32 [tokens]; labels[t] is the token to predict at t, already shifted: ids[t + 1], or -100 if the
            loss doesn't count it. A document's last position is always -100.
        lengths: int64 [documents].
        rows: int64 [documents], the index of each document's row.
        loss_tokens: int64 [documents], the number of labels that aren't -100.
        truncated: number of documents cut to the limit.
        split: number of rows split into several documents.
        spelt: number of rows whose words spell control tokens.
        ignored: what of their answers the prompt format makes nothing of, and the number of rows.
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    lengths: NDArray[np.int64]
    rows: NDArray[np.int64]
    loss_tokens: NDArray[np.int64]
    truncated: int
    split: int
    spelt: int
    ignored: Counter[str]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each document begins in `ids`: int64 [documents]."""
        return np.cumsum(self.lengths) - self.lengths


class DocumentBuilder:
    """Collects documents one by one. Ids and labels go to unnamed temporary files, since they may exceed memory."""

    def __init__(self, scratch: Path) -> None:
        """
        Args:
            scratch: directory for the temporary files, 8 bytes a token.
        """
        self.truncated = self.split = self.spelt = 0
        self.ignored: Counter[str] = Counter()
        ids, labels = (TemporaryFile(dir=scratch) for _ in range(2))  # noqa: SIM115  # mapped by Documents
        self._files = [cast(BinaryIO, ids), cast(BinaryIO, labels)]
        self._spans: list[NDArray[np.int32]] = []  # ids of the documents that aren't in the files yet
        self._span_in_loss: list[bool] = []
        self._buffered_lengths: list[int] = []  # of these documents
        self._buffered_tokens = 0
        self._lengths: list[int] = []  # of all documents
        self._rows: list[int] = []
        self._loss_tokens: list[NDArray[np.int64]] = []

    def add(self, row: int, spans: Sequence[tuple[Sequence[int] | NDArray[np.int32], bool]]) -> None:
        """Add a document: spans of ids, each with whether the loss counts its tokens."""
        length = sum(len(ids) for ids, _ in spans)
        self._spans += [np.asarray(ids, np.int32) for ids, _ in spans]
        self._span_in_loss += [in_loss for _, in_loss in spans]
        self._buffered_lengths.append(length)
        self._lengths.append(length)
        self._rows.append(row)
        self._buffered_tokens += length
        if self._buffered_tokens >= BUFFER_TOKENS:
            self._flush()

    def _flush(self) -> None:
        if not self._buffered_lengths:
            return
        sizes = np.array([len(span) for span in self._spans], np.int64)
        ids, lengths = np.concatenate(self._spans), np.array(self._buffered_lengths, np.int64)
        labels = next_token_labels(ids, lengths, np.repeat(np.array(self._span_in_loss, np.bool_), sizes))
        counts = np.add.reduceat(labels != IGNORE_INDEX, np.cumsum(lengths) - lengths, dtype=np.int64)
        self._loss_tokens.append(counts)
        for file, array in zip(self._files, (ids, labels), strict=True):
            file.write(array.data)  # tofile's error would not tell that the disk is full
        self._spans, self._span_in_loss, self._buffered_lengths, self._buffered_tokens = [], [], [], 0

    def documents(self) -> Documents:
        """All documents added, with `ids` and `labels` mapped from the files."""
        self._flush()
        for file in self._files:
            file.flush()
        lengths = np.array(self._lengths, np.int64)
        total = int(lengths.sum())
        empty = np.zeros(0, np.int32)
        ids, labels = (np.memmap(file, np.int32, "r", shape=total) if total else empty for file in self._files)
        loss_tokens = np.concatenate([np.zeros(0, np.int64), *self._loss_tokens])
        rows = np.array(self._rows, np.int64)
        counts = (self.truncated, self.split, self.spelt, self.ignored)
        return Documents(ids, labels, lengths, rows, loss_tokens, *counts)


def next_token_labels(
    ids: NDArray[np.int32], lengths: NDArray[np.int64], in_loss: NDArray[np.bool_]
) -> NDArray[np.int32]:
    """Labels of concatenated documents, shifted by one: int32 [tokens].

    Args:
        in_loss: bool [tokens], whether the loss counts the prediction of each token.
    """
    last = positions_within(lengths) + 1 == np.repeat(lengths, lengths)
    return np.where(np.roll(in_loss, -1) & ~last, np.roll(ids, -1), np.int32(IGNORE_INDEX))


def positions_within(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2, … for each of several concatenated runs of these lengths: int64 [sum of lengths]."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum(), dtype=np.int64) - np.repeat(starts, lengths)
