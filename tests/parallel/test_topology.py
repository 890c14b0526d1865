"""Ranks, the groups that they form, and the shards of a bucket that replicas own."""

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
def test_groups_of_a_kind_partition_the_ranks(data, tensor, context):
    topologies = [Topology(rank, data, tensor, context) for rank in range(data * tensor * context)]
    for groups in (
        {topology.tp_ranks() for topology in topologies},
        {topology.cp_ranks() for topology in topologies},
        {topology.replica_ranks() for topology in topologies},
    ):
        assert sorted(chain(*groups)) == list(range(len(topologies)))
    assert sum(topology.counts_batch for topology in topologies) == data
    assert all(topology.replica_ranks().index(topology.rank) == topology.replica for topology in topologies)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 9))
def test_shards_hold_every_element_once_in_slices_of_equal_length(sizes, ranks):
    names = tuple(f"tensor {index}" for index in range(len(sizes)))
    bucket = Bucket(names, tuple((size,) for size in sizes), matrices=True, copies=1, partial=1)
    covered = {name: [False] * size for name, size in zip(names, sizes, strict=True)}
    for rank in range(ranks):
        shards = bucket.shards(rank, ranks)
        assert sum(shard.last - shard.first for shard in shards) <= bucket.length(ranks)
        for shard in shards:
            assert not any(covered[shard.name][shard.first : shard.last])
            covered[shard.name][shard.first : shard.last] = [True] * (shard.last - shard.first)
    assert all(chain(*covered.values()))
