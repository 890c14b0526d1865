"""Packing: each document exactly once and uncut, with its labels."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dscoder_exp.data.documents import Documents, next_token_labels, positions_within
from dscoder_exp.data.packing import assemble, pack
from dscoder_exp.schema.llama import IGNORE_INDEX

CAPACITY = 32
PAD = 999
LENGTHS = st.lists(st.integers(1, CAPACITY), max_size=60)


def documents_of(lengths: list[int]) -> Documents:
    """Documents whose ids are all different, so that a misplaced token shows."""
    sizes = np.array(lengths, np.int64)
    ids = np.arange(1000, 1000 + sizes.sum(), dtype=np.int32)
    counted = positions_within(sizes) >= np.repeat(sizes // 2, sizes)
    labels, rows = next_token_labels(ids, sizes, counted), np.arange(len(sizes))
    return Documents(ids, labels, sizes, rows, np.zeros_like(sizes), truncated=0, split=0, spelt=0, ignored=Counter())


def slow_best_fit(lengths: list[int]) -> list[int]:
    """Best-fit decreasing by plain search: the room left in each sequence, sorted."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        room = min(fitting) if fitting else CAPACITY
        if fitting:
            rooms.remove(room)
        rooms.append(room - length)
    return sorted(rooms)


@given(LENGTHS)
def test_packs_each_document_once_by_best_fit(lengths: list[int]) -> None:
    groups = pack(lengths, CAPACITY)
    assert sorted(document for group in groups for document in group) == list(range(len(lengths)))
    assert sorted(CAPACITY - sum(lengths[document] for document in group) for group in groups) == slow_best_fit(lengths)
    assert groups == pack(np.array(lengths, np.int64), CAPACITY)


def test_an_example() -> None:
    assert pack([3, 7, 5, 5, 2], 10) == [[1, 0], [2, 3], [4]]


@given(LENGTHS.filter(bool), st.integers(CAPACITY, CAPACITY + 5))
def test_sequences_hold_their_documents(lengths: list[int], seq_length: int) -> None:
    documents = documents_of(lengths)
    starts = documents.starts
    groups = pack(lengths, CAPACITY)
    batch = assemble(documents, groups, seq_length, PAD)
    assert batch.ids.shape == (len(groups), seq_length)
    assert {getattr(batch, name).dtype for name in ("ids", "labels", "positions", "documents")} == {np.dtype(np.int32)}
    for row, group in enumerate(groups):
        place = 0
        for number, member in enumerate(group):
            here, there = slice(place, place + lengths[member]), slice(starts[member], starts[member] + lengths[member])
            assert (batch.ids[row, here] == documents.ids[there]).all()
            assert (batch.labels[row, here] == documents.labels[there]).all()
            assert (batch.positions[row, here] == np.arange(lengths[member])).all()
            assert (batch.documents[row, here] == number).all()
            place += lengths[member]
        for field, filler in (
            (batch.ids, PAD),
            (batch.labels, IGNORE_INDEX),
            (batch.positions, 0),
            (batch.documents, -1),
        ):
            assert (field[row, place:] == filler).all()
    assert batch.useful_tokens == sum(lengths)
    assert batch.loss_tokens == (documents.labels != IGNORE_INDEX).sum()


@given(LENGTHS.filter(bool))
def test_a_label_is_the_next_token_of_the_same_document(lengths: list[int]) -> None:
    batch = assemble(documents_of(lengths), pack(lengths, CAPACITY), CAPACITY, PAD)
    row, place = np.nonzero(batch.labels != IGNORE_INDEX)
    assert (batch.labels[row, place] == batch.ids[row, place + 1]).all()
    assert (batch.documents[row, place] == batch.documents[row, place + 1]).all()
