"""The CPU's collectives that are made of other ones. test_layouts.py runs them on real ranks, tests/ascend Ascend's.

Stand-ins for MindSpore's operators compute what their documentation says, for all ranks at once.
"""

import inspect

import mindspore as ms
import numpy as np
import pytest
from mindspore import ops

from dscoder_exp.parallel import collectives as module
from dscoder_exp.parallel.collectives import join, process_group
from dscoder_exp.schema.config import ParallelConfig

RANKS = 3
VALUES = [np.random.default_rng(rank).standard_normal((RANKS * 2, 4)).astype(np.float32) for rank in range(RANKS)]
TOTAL = np.sum(VALUES, 0)


def stand_in(name, compute):
    """An operator with the real signatures; a call returns `compute(rank)` for the rank whose value it is given."""
    real = getattr(ops, name)

    def construct(*args, **kwargs):
        bound = inspect.signature(real.__init__).bind(None, *args, **kwargs).arguments
        assert bound["group"] == "ranks 4 to 8 by 2"
        assert bound.get("op", ops.ReduceOp.SUM) == ops.ReduceOp.SUM

        def call(x):
            inspect.signature(real.construct if hasattr(real, "construct") else real.__call__).bind(None, x)
            rank = next(i for i, value in enumerate(VALUES) if np.array_equal(value, x.asnumpy()))
            return ms.Tensor(compute(rank))

        return call

    return construct


@pytest.fixture
def group(monkeypatch):
    """A function from a rank in a group of three to its collectives on the CPU."""
    monkeypatch.setattr(module, "get_group_size", lambda: 12)
    made = []

    def create(name, ranks):
        made.append((name, ranks))

    monkeypatch.setattr(module, "create_group", create)
    monkeypatch.setattr(module, "_created", set())
    monkeypatch.setattr(ops, "AllReduce", stand_in("AllReduce", lambda rank: TOTAL))
    monkeypatch.setattr(ops, "AllGather", stand_in("AllGather", lambda rank: np.concatenate(VALUES)))
    yield lambda rank: process_group(range(4, 9, 2), 4 + 2 * rank, "cpu")
    assert made[0] == ("ranks 4 to 8 by 2", [4, 6, 8])


@pytest.mark.parametrize("rank", range(RANKS))
def test_the_cpus_reduce_scatter_gives_a_ranks_rows_of_the_sum(group, rank):
    found = group(rank).reduce_scatter(ms.Tensor(VALUES[rank])).asnumpy()
    np.testing.assert_allclose(found, TOTAL[2 * rank : 2 * rank + 2])


def test_collectives_of_one_rank_return_their_input():
    alone = process_group(range(5, 6), 5, "cpu")
    x = ms.Tensor(VALUES[0])
    assert alone.size == 1
    assert all(f(x) is x for f in (alone.all_reduce, alone.all_gather, alone.reduce_scatter))


@pytest.mark.parametrize("rank", range(16))
def test_join_creates_every_group_of_a_mesh(monkeypatch, rank):
    made = []
    monkeypatch.setattr(module, "init", lambda: None)
    monkeypatch.setattr(module, "get_rank", lambda: rank)
    monkeypatch.setattr(module, "get_group_size", lambda: 16)
    monkeypatch.setattr(module, "create_group", lambda name, ranks: made.append(ranks))
    monkeypatch.setattr(module, "_created", set())
    mesh = join(ParallelConfig(data=2, tensor=4, context=2, sequence=False), "cpu", key_heads=2)
    tensor, context, pair = rank // 4 * 4, rank // 8 * 8 + rank % 4, rank // 2 * 2
    # In this order on all ranks: tensor-parallel, context-parallel, replicas, ranks with the same key head.
    expected = [[tensor, tensor + 1, tensor + 2, tensor + 3], [context, context + 4], list(range(rank % 4, 16, 4))]
    assert made == [*expected, [pair, pair + 1]]
    assert [group.size for group in (mesh.world, mesh.tp_group, mesh.cp_group, mesh.replica_group)] == [16, 4, 2, 4]
    assert mesh.copies_group(2).size == 2
    assert len(made) == 4, "no group is created later"
