"""Who is where among the ranks, and what replicas own of a group of tensors."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from dscoder_exp.parallel.pieces import pieces_of, slice_length
from dscoder_exp.parallel.topology import Topology

SIZES = st.integers(1, 4)


def test_ranks_are_numbered_tensor_first_then_context_then_data():
    place = Topology(13, data=2, tensor=4, context=2)
    assert (place.tensor_rank, place.context_rank, place.data_rank, place.replica) == (1, 1, 1, 3)
    assert list(place.sharing_tensors()) == [12, 13, 14, 15]
    assert list(place.sharing_tensors(2)) == [12, 13]
    assert list(place.sharing_positions()) == [9, 13]
    assert list(place.sharing_weights()) == [1, 5, 9, 13]


@given(SIZES, SIZES, SIZES)
def test_groups_part_the_ranks(data, tensor, context):
    places = [Topology(rank, data, tensor, context) for rank in range(data * tensor * context)]
    for groups in (
        {place.sharing_tensors() for place in places},
        {place.sharing_positions() for place in places},
        {place.sharing_weights() for place in places},
    ):
        assert sorted(chain(*groups)) == list(range(len(places)))
    assert sum(place.counts for place in places) == data
    assert all(place.sharing_weights().index(place.rank) == place.replica for place in places)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 9))
def test_slices_hold_every_value_once_and_are_as_long_as_each_other(sizes, ranks):
    seen = [[False] * size for size in sizes]
    for rank in range(ranks):
        pieces = pieces_of(sizes, rank, ranks)
        assert sum(piece.size for piece in pieces) <= slice_length(sizes, ranks)
        for piece in pieces:
            assert not any(seen[piece.number][piece.first : piece.last])
            seen[piece.number][piece.first : piece.last] = [True] * piece.size
    assert all(chain(*seen))
