"""Each gathering of weights that was begun is waited for, by whoever comes next: MindSpore wants it of every handle."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mindspore import float32

from dscoder_exp.device.start import start_device
from dscoder_exp.model.masters import Masters
from dscoder_exp.parallel.collectives import Collectives, same
from dscoder_exp.parallel.topology import Topology
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.names import expected

CONFIG = LlamaConfig(32, 8, 16, 1, 2, 1, 4, 64, 1e-6, 10000.0, None, False, 0, 1, 2)


class Handle:
    def __init__(self) -> None:
        self.waits = 0

    def wait(self) -> None:
        self.waits += 1


@pytest.fixture
def begun() -> list[Handle]:
    return []


@pytest.fixture
def masters(begun: list[Handle]) -> Masters:
    """Of the first of two replicas, whose values are all there."""
    start_device("cpu")

    def start_all_gather(into: Any, x: Any) -> Handle:
        begun.append(Handle())
        return begun[-1]

    replicas = Collectives(2, 0, same, same, same, lambda x: (x, Handle()), start_all_gather)
    mesh: Any = SimpleNamespace(replicas=replicas, place=Topology(0, data=2))
    shapes = expected(CONFIG)
    names = list(shapes)
    groups = [names[:1], names[1:-2], names[-2:]]
    made = Masters(groups, shapes, CONFIG, mesh, factors=False, device="cpu", dtype=float32)
    for name, shape in shapes.items():
        made.take(name, np.ones(shape, np.float32))
    return made


def test_what_is_gathered_while_loading_is_there_at_once(masters: Masters, begun: list[Handle]) -> None:
    assert len(begun) == len(masters.buckets) == 5  # both tables, the block's matrices, its norms, the last norm
    assert all(handle.waits == 1 for handle in begun)


def test_a_group_waits_for_its_own_and_once(masters: Masters, begun: list[Handle]) -> None:
    del begun[:]
    for number in range(len(masters.buckets)):
        masters.gather(number)
    masters.ready(0)
    masters.ready(0)
    assert [handle.waits for handle in begun].count(1) == 1
    masters.settle()
    assert all(handle.waits == 1 for handle in begun)


def test_a_gathering_that_nobody_asked_for_is_waited_for_before_the_next(masters: Masters, begun: list[Handle]) -> None:
    del begun[:]
    masters.gather(0)
    masters.gather(0)
    assert [handle.waits for handle in begun] == [1, 0]
