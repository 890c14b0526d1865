"""The CPU's column of collectives, where it makes one of another; test_layouts.py runs it, tests/ascend the other one.

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
    """The operator's constructor and call signatures; `compute(place)`."""
    real = getattr(ops, name)

    def construct(*args, **kwargs):
        bound = inspect.signature(real.__init__).bind(None, *args, **kwargs).arguments
        assert bound["group"] == "ranks 4 to 8 by 2"
        assert bound.get("op", ops.ReduceOp.SUM) == ops.ReduceOp.SUM

        def call(x):
            inspect.signature(real.construct if hasattr(real, "construct") else real.__call__).bind(None, x)
            place = next(i for i, value in enumerate(VALUES) if np.array_equal(value, x.asnumpy()))
            return ms.Tensor(compute(place))

        return call

    return construct


@pytest.fixture
def group(monkeypatch):
    """The CPU's column, of the rank at a place of a group of three."""
    monkeypatch.setattr(module, "get_group_size", lambda: 12)
    made = []

    def create(name, ranks):
        made.append((name, ranks))

    monkeypatch.setattr(module, "create_group", create)
    monkeypatch.setattr(module, "_created", set())
    monkeypatch.setattr(ops, "AllReduce", stand_in("AllReduce", lambda place: TOTAL))
    monkeypatch.setattr(ops, "AllGather", stand_in("AllGather", lambda place: np.concatenate(VALUES)))
    yield lambda place: process_group(range(4, 9, 2), 4 + 2 * place, "cpu")
    assert made[0] == ("ranks 4 to 8 by 2", [4, 6, 8])


@pytest.mark.parametrize("place", range(RANKS))
def test_the_cpus_reduce_scatter_is_the_same(group, place):
    chosen = group(place)
    found = chosen.reduce_scatter(ms.Tensor(VALUES[place])).asnumpy()
    np.testing.assert_allclose(found, TOTAL[2 * place : 2 * place + 2])


def test_a_rank_alone_has_everything():
    chosen = process_group(range(5, 6), 5, "cpu")
    x = ms.Tensor(VALUES[0])
    assert chosen.size == 1
    assert all(f(x) is x for f in (chosen.all_reduce, chosen.all_gather, chosen.reduce_scatter))


@pytest.mark.parametrize("rank", range(16))
def test_joining_makes_every_group_that_a_mesh_will_ask_for(monkeypatch, rank):
    made = []
    monkeypatch.setattr(module, "init", lambda: None)
    monkeypatch.setattr(module, "get_rank", lambda: rank)
    monkeypatch.setattr(module, "get_group_size", lambda: 16)
    monkeypatch.setattr(module, "create_group", lambda name, ranks: made.append(ranks))
    monkeypatch.setattr(module, "_created", set())
    mesh = join(ParallelConfig(data=2, tensor=4, context=2, sequence=False), "cpu", key_heads=2)
    tensor, context, pair = rank // 4 * 4, rank // 8 * 8 + rank % 4, rank // 2 * 2
    # In this order on all ranks: of a replica's matrices, a sequence's positions, the same weights, the same key head.
    expected = [[tensor, tensor + 1, tensor + 2, tensor + 3], [context, context + 4], list(range(rank % 4, 16, 4))]
    assert made == [*expected, [pair, pair + 1]]
    assert [group.size for group in (mesh.world, mesh.tp_group, mesh.cp_group, mesh.replica_group)] == [16, 4, 2, 4]
    assert mesh.copies_group(2).size == 2
    assert len(made) == 4, "nothing is made later"
