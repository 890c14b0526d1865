"""Prepared sequences as batches: which rank sees which sequence when. Streamed from the file, never all in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.data import mindrecord
from dscoder_exp.data.batch import Batch, empty_batch
from dscoder_exp.data.prepare import Prepared
from dscoder_exp.schema.config import MAX_DOCUMENTS
from dscoder_exp.schema.errors import refuse


@dataclass(frozen=True)
class SequenceDataset:
    """One split on disk: `count` sequences of `seq_length` positions; 0 sequences have no file."""

    path: Path
    count: int
    seq_length: int
    pad_token_id: int

    def __len__(self) -> int:
        return self.count


def load(prepared: Prepared, split: str) -> SequenceDataset:
    """The "train" or "eval" split of prepared data."""
    report = prepared.report
    count = {"train": report.sequences, "eval": report.eval_sequences}[split]
    return SequenceDataset(prepared.directory / f"{split}.mindrecord", count, report.seq_length, report.pad_token_id)


def refuse_crowded(prepared: Prepared, batch_size: int) -> None:
    """Raise Refused where a batch may hold more documents than attention on Ascend takes in one call."""
    most = prepared.report.most_documents
    fitting = MAX_DOCUMENTS // (most + 2)  # its padding is one, and so are keys behind a context rank's queries
    if batch_size > fitting:
        at_once = f"of up to {most} documents; attention on NPUs takes {MAX_DOCUMENTS} at once"
        if not fitting:
            raise refuse(
                "seq_length", f"{prepared.report.seq_length} makes sequences {at_once}", "a shorter seq_length"
            )
        remedy = f"train.micro_batch_size={fitting} or less: train.global_batch_size stays as it is"
        raise refuse("train.micro_batch_size", f"{batch_size} sequences {at_once}", remedy)


def train_batches(
    sequences: SequenceDataset, batch_size: int, *, rank: int = 0, ranks: int = 1, seed: int = 0, start: int = 0
) -> Iterator[Batch]:
    """Batches without end: epoch after epoch, each in an order of its own, drawn from (seed, epoch).

    The epochs run on into each other, so no sequence is left out and every batch is full. Micro step k takes the
    stream's next `batch_size * ranks` sequences, and each rank its own part of them.

    Args:
        sequences: at least one.
        batch_size: sequences a rank takes per micro step.
        start: the micro step to begin at, for resuming.
    """
    steps = max(1, len(sequences) // (batch_size * ranks))  # asked of the file at a time: about an epoch
    while True:
        places = (start + np.arange(steps))[:, None] * batch_size * ranks + rank * batch_size + np.arange(batch_size)
        yield from _batches(sequences, _shuffled(places.reshape(-1), len(sequences), seed), batch_size)
        start += steps


def eval_batches(
    sequences: SequenceDataset, batch_size: int, *, rank: int = 0, ranks: int = 1, limit: int | None = None
) -> Iterator[Batch]:
    """This rank's share of the first `limit` sequences, each exactly once over all ranks.

    All ranks get the same number of batches, all of one shape; what is missing is filled up with padding.
    """
    count = min(len(sequences), limit or len(sequences))
    steps = -(-count // (batch_size * ranks))
    mine = np.arange(rank, count, ranks)
    filler = empty_batch(batch_size, sequences.seq_length, sequences.pad_token_id)
    done = 0
    for batch in _batches(sequences, mine, batch_size):
        yield _join(batch, filler, batch_size)
        done += 1
    for _ in range(steps - done):
        yield filler


def _shuffled(places: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Which sequence stands at these (ascending) places of the endless stream: int64, like `places`."""
    rows = np.empty_like(places)
    for epoch in range(places[0] // count, places[-1] // count + 1):
        here = places // count == epoch
        rows[here] = np.random.default_rng([seed, epoch]).permutation(count)[places[here] % count]
    return rows


def _batches(sequences: SequenceDataset, rows: NDArray[np.int64], batch_size: int) -> Iterator[Batch]:
    """The rows in order, `batch_size` at a time; the last batch may be smaller."""
    stream = mindrecord.read(sequences.path, rows, len(sequences))
    for first in range(0, len(rows), batch_size):
        taken = [next(stream) for _ in range(min(batch_size, len(rows) - first))]
        yield Batch(*(np.stack(field) for field in zip(*taken, strict=True)))


def _join(batch: Batch, filler: Batch, size: int) -> Batch:
    """`batch`, filled up to `size` sequences."""
    if len(batch) == size:
        return batch
    missing = slice(size - len(batch))
    return Batch(
        ids=np.concatenate([batch.ids, filler.ids[missing]]),
        labels=np.concatenate([batch.labels, filler.labels[missing]]),
        positions=np.concatenate([batch.positions, filler.positions[missing]]),
        documents=np.concatenate([batch.documents, filler.documents[missing]]),
    )
