"""Batches of prepared sequences for each data-parallel rank, streamed from the file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.data import mindrecord
from dscoder_exp.data.batch import Batch, empty_batch
from dscoder_exp.data.report import Prepared
from dscoder_exp.schema.config import MAX_DOCUMENTS
from dscoder_exp.schema.errors import refuse


@dataclass(frozen=True)
class SequenceDataset:
    """One split on disk: `count` sequences of `seq_length` positions. If `count` is 0, there is no file."""

    path: Path
    count: int
    seq_length: int
    pad_token_id: int

    def __len__(self) -> int:
        return self.count


def load(prepared: Prepared, split: str) -> SequenceDataset:
    """The split "train" or "eval" of prepared data."""
    report = prepared.report
    count = {"train": report.sequences, "eval": report.eval_sequences}[split]
    return SequenceDataset(prepared.directory / f"{split}.mindrecord", count, report.seq_length, report.pad_token_id)


def refuse_too_many_documents(prepared: Prepared, batch_size: int) -> None:
    """Raise Refused if a batch may hold more documents than attention on Ascend takes in one call."""
    most = prepared.report.most_documents
    # Two more per sequence: its padding, and the document that ends after the queries of a context-parallel rank.
    fitting = MAX_DOCUMENTS // (most + 2)
    if batch_size > fitting:
        why = f"of up to {most} documents each, but attention on an NPU takes {MAX_DOCUMENTS} documents in one call"
        if not fitting:
            raise refuse("seq_length", f"{prepared.report.seq_length} gives sequences {why}", "choose a smaller one")
        remedy = f"train.micro_batch_size={fitting} or less; train.global_batch_size can stay as it is"
        raise refuse("train.micro_batch_size", f"{batch_size} gives sequences {why}", remedy)


def train_batches(
    sequences: SequenceDataset, batch_size: int, *, rank: int = 0, ranks: int = 1, seed: int = 0, start: int = 0
) -> Iterator[Batch]:
    """Endless batches for one data-parallel rank: each epoch is a permutation drawn from (seed, epoch).

    The epochs form one stream, so a batch may span two: no sequence is left out and every batch is full. Micro step k
    takes the next `batch_size * ranks` sequences of the stream; each rank takes `batch_size` consecutive ones of them.

    Args:
        sequences: at least one.
        batch_size: sequences a rank takes per micro step.
        rank, ranks: this data-parallel rank, and their number.
        start: the micro step to begin at, for resuming.
    """
    steps = max(1, len(sequences) // (batch_size * ranks))  # read from the file in one go: about an epoch
    while True:
        indices = (start + np.arange(steps))[:, None] * batch_size * ranks + rank * batch_size + np.arange(batch_size)
        yield from _batches(sequences, _shuffled(indices.reshape(-1), len(sequences), seed), batch_size)
        start += steps


def eval_batches(
    sequences: SequenceDataset, batch_size: int, *, rank: int = 0, ranks: int = 1, limit: int | None = None
) -> Iterator[Batch]:
    """This rank's share of the first `limit` sequences; over all ranks each sequence comes exactly once.

    All ranks get the same number of batches of the same shape; padding sequences fill the last ones.
    """
    count = min(len(sequences), limit or len(sequences))
    steps = -(-count // (batch_size * ranks))
    mine = np.arange(rank, count, ranks)
    filler = empty_batch(batch_size, sequences.seq_length, sequences.pad_token_id)
    done = 0
    for batch in _batches(sequences, mine, batch_size):
        yield _pad(batch, filler, batch_size)
        done += 1
    for _ in range(steps - done):
        yield filler


def _shuffled(indices: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Rows of the file at these ascending indices of the endless stream: int64, the shape of `indices`."""
    rows = np.empty_like(indices)
    for epoch in range(indices[0] // count, indices[-1] // count + 1):
        here = indices // count == epoch
        rows[here] = np.random.default_rng([seed, epoch]).permutation(count)[indices[here] % count]
    return rows


def _batches(sequences: SequenceDataset, rows: NDArray[np.int64], batch_size: int) -> Iterator[Batch]:
    """Batches of these rows of the file, in their order; the last batch may be smaller."""
    stream = mindrecord.read(sequences.path, rows, len(sequences))
    for first in range(0, len(rows), batch_size):
        taken = [next(stream) for _ in range(min(batch_size, len(rows) - first))]
        yield Batch(*(np.stack(field) for field in zip(*taken, strict=True)))


def _pad(batch: Batch, filler: Batch, size: int) -> Batch:
    """Pad `batch` to `size` sequences with those of `filler`."""
    if len(batch) == size:
        return batch
    missing = slice(size - len(batch))
    return Batch(
        ids=np.concatenate([batch.ids, filler.ids[missing]]),
        labels=np.concatenate([batch.labels, filler.labels[missing]]),
        positions=np.concatenate([batch.positions, filler.positions[missing]]),
        documents=np.concatenate([batch.documents, filler.documents[missing]]),
    )
