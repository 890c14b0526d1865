"""Each rank's batches, in training and evaluation."""

from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dscoder_exp.data import mindrecord
from dscoder_exp.data.batch import Batch
from dscoder_exp.data.loader import SequenceDataset, eval_batches, refuse_too_many_documents, train_batches
from dscoder_exp.data.report import Prepared
from dscoder_exp.schema.errors import Refused

COUNT, LENGTH, PAD = 10, 4, 7


def numbered(count: int) -> Batch:
    """Sequence n holds n everywhere but in its last position, which is padding."""
    ids = np.repeat(np.arange(count, dtype=np.int32)[:, None], LENGTH, axis=1)
    documents = np.zeros_like(ids)
    documents[:, -1] = -1
    return Batch(ids, ids + 100, ids + 200, documents)


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> SequenceDataset:
    path: Path = tmp_path_factory.mktemp("sequences") / "train.mindrecord"
    batch = numbered(COUNT)
    halves = (Batch(*(field[part] for field in vars(batch).values())) for part in (slice(0, 6), slice(6, None)))
    mindrecord.write(path, halves, LENGTH)
    return SequenceDataset(path, COUNT, LENGTH, PAD)


def numbers(batches: list[Batch]) -> list[int]:
    return [int(row[0]) for batch in batches for row in batch.ids]


def test_a_sequence_comes_back_as_written(sequences: SequenceDataset) -> None:
    (batch,) = eval_batches(sequences, COUNT)
    for name, field in vars(numbered(COUNT)).items():
        assert (getattr(batch, name) == field).all()
        assert getattr(batch, name).dtype == np.int32
    assert (batch.useful_tokens, batch.loss_tokens) == (COUNT * (LENGTH - 1), COUNT * LENGTH)


def test_an_epoch_takes_each_sequence_once_over_all_ranks(sequences: SequenceDataset) -> None:
    ranks = [list(islice(train_batches(sequences, 1, rank=rank, ranks=2, seed=3), 15)) for rank in range(2)]
    steps = [numbers([ranks[0][step], ranks[1][step]]) for step in range(15)]
    epochs = [list(chain(*steps[first : first + 5])) for first in (0, 5, 10)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(COUNT))] * 3
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_the_ranks_share_the_order_of_one_process(sequences: SequenceDataset) -> None:
    alone = numbers(list(islice(train_batches(sequences, 6, seed=1), 5)))
    shared = [list(islice(train_batches(sequences, 2, rank=rank, ranks=3, seed=1), 5)) for rank in range(3)]
    assert [number for step in zip(*shared, strict=True) for number in numbers(list(step))] == alone
    assert numbers(list(islice(train_batches(sequences, 6, seed=2), 5))) != alone
    assert sorted(alone[:COUNT]) == sorted(alone[COUNT : 2 * COUNT]) == list(range(COUNT))  # batches cross epochs


@pytest.mark.parametrize("start", [1, 4, 11])
def test_resumes_where_it_stopped(sequences: SequenceDataset, start: int) -> None:
    through = numbers(list(islice(train_batches(sequences, 3, seed=5), start + 4)))
    resumed = numbers(list(islice(train_batches(sequences, 3, seed=5, start=start), 4)))
    assert resumed == through[3 * start :]


def test_fewer_sequences_than_a_batch_takes(sequences: SequenceDataset) -> None:
    (batch,) = islice(train_batches(sequences, 25, seed=0), 1)
    assert sorted(np.bincount(numbers([batch]))) == [2] * 5 + [3] * 5


@pytest.mark.parametrize(
    ("batch_size", "ranks", "limit"), [(4, 1, None), (2, 3, None), (4, 3, None), (3, 2, 5), (2, 2, 99)]
)
def test_evaluation_takes_each_sequence_once_in_full_batches(
    sequences: SequenceDataset, batch_size: int, ranks: int, limit: int | None
) -> None:
    of_ranks = [list(eval_batches(sequences, batch_size, rank=rank, ranks=ranks, limit=limit)) for rank in range(ranks)]
    assert len({len(batches) for batches in of_ranks}) == 1
    found = []
    for batch in chain(*of_ranks):
        assert batch.ids.shape == (batch_size, LENGTH)
        real = batch.documents[:, 0] == 0
        found += batch.ids[real, 0].tolist()
        assert (batch.ids[~real] == PAD).all()
        assert (batch.labels[~real] == -100).all()
        assert (batch.positions[~real] == 0).all()
        assert (batch.documents[~real] == -1).all()
    assert sorted(found) == list(range(min(COUNT, limit or COUNT)))


@pytest.mark.parametrize(("most", "fitting"), [(2046, "1"), (1022, "2"), (5, "292"), (3000, None)])
def test_more_documents_than_attention_on_npus_takes_are_refused(most: int, fitting: str | None) -> None:
    prepared = Prepared(Path(), SimpleNamespace(most_documents=most, seq_length=16384), reused=True)  # type: ignore[arg-type]
    if fitting is not None:
        refuse_too_many_documents(prepared, int(fitting))
    with pytest.raises(Refused) as caught:
        refuse_too_many_documents(prepared, int(fitting or 0) + 1)
    remedy = f"train.micro_batch_size={fitting} " if fitting else "seq_length: 16384 gives"
    assert f"of up to {most} documents each" in str(caught.value)
    assert remedy in str(caught.value)
