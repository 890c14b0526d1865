"""Who is where among the ranks, and what replicas own of a group of tensors."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from dscoder_exp.parallel.buckets import Bucket
from dscoder_exp.parallel.topology import Topology

SIZES = st.integers(1, 4)


def test_ranks_are_numbered_tensor_first_then_context_then_data():
    topology = Topology(13, data=2, tensor=4, context=2)
    assert (topology.tensor_rank, topology.context_rank, topology.data_rank, topology.replica) == (1, 1, 1, 3)
    assert list(topology.tp_ranks()) == [12, 13, 14, 15]
    assert list(topology.tp_ranks(2)) == [12, 13]
    assert list(topology.cp_ranks()) == [9, 13]
    assert list(topology.replica_ranks()) == [1, 5, 9, 13]


@given(SIZES, SIZES, SIZES)
def test_groups_part_the_ranks(data, tensor, context):
    places = [Topology(rank, data, tensor, context) for rank in range(data * tensor * context)]
    for groups in (
        {topology.tp_ranks() for topology in places},
        {topology.cp_ranks() for topology in places},
        {topology.replica_ranks() for topology in places},
    ):
        assert sorted(chain(*groups)) == list(range(len(places)))
    assert sum(topology.counts for topology in places) == data
    assert all(topology.replica_ranks().index(topology.rank) == topology.replica for topology in places)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 9))
def test_slices_hold_every_value_once_and_are_as_long_as_each_other(sizes, ranks):
    names = tuple(f"tensor {index}" for index in range(len(sizes)))
    bucket = Bucket(names, tuple((size,) for size in sizes), matrices=True, copies=1, partial=1)
    seen = {name: [False] * size for name, size in zip(names, sizes, strict=True)}
    for rank in range(ranks):
        shards = bucket.shards(rank, ranks)
        assert sum(shard.last - shard.first for shard in shards) <= bucket.length(ranks)
        for shard in shards:
            assert not any(seen[shard.name][shard.first : shard.last])
            seen[shard.name][shard.first : shard.last] = [True] * (shard.last - shard.first)
    assert all(chain(*seen.values()))
