"""Packing documents into sequences of equal length."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.data.batch import Batch, empty_batch
from dscoder_exp.data.documents import Documents, positions_within


def pack(lengths: Sequence[int] | NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Best-fit decreasing bin packing: the longest document first, each into the fullest sequence with room for it.

    Args:
        lengths: tokens of each document, from 1 to `capacity`.
        capacity: tokens of a sequence.

    Returns:
        The indices of each sequence's documents. Deterministic.
    """
    sizes = [int(length) for length in lengths]
    groups: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # [r]: sequences with room for exactly r tokens
    rooms = 0  # bit r is set if by_room[r] isn't empty: a shift and the lowest bit give the best fit
    for document in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        size = sizes[document]
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            group = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, group = capacity, len(groups)
            groups.append([])
        groups[group].append(document)
        by_room[room - size].append(group)
        rooms |= 1 << (room - size)
    return groups


def assemble(documents: Documents, groups: Sequence[Sequence[int]], seq_length: int, pad_token_id: int) -> Batch:
    """Concatenate and pad the documents of each group, in the group's order: a Batch [len(groups), seq_length]."""
    members = np.fromiter((member for group in groups for member in group), np.int64)
    counts = np.array([len(group) for group in groups], np.int64)
    lengths = documents.lengths[members]
    sequence = np.repeat(np.arange(len(groups)), counts)  # one per document, as are the next two
    first = np.repeat(np.cumsum(counts) - counts, counts)  # index in `members` of its sequence's first document
    starts = np.cumsum(lengths) - lengths

    within = positions_within(lengths)  # one per token, as are the next two
    source = np.repeat(documents.starts[members], lengths) + within
    target = np.repeat(sequence * seq_length + starts - starts[first], lengths) + within

    batch = empty_batch(len(groups), seq_length, pad_token_id)
    batch.ids.reshape(-1)[target] = documents.ids[source]
    batch.labels.reshape(-1)[target] = documents.labels[source]
    batch.positions.reshape(-1)[target] = within
    batch.documents.reshape(-1)[target] = np.repeat(positions_within(counts), lengths)
    return batch
