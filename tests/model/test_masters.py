"""Each gathering of weights that was begun is waited for, by whoever comes next: MindSpore wants it of every handle."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mindspore import float32

from dscoder_exp.device.start import start_device
from dscoder_exp.model.masters import MasterWeights
from dscoder_exp.parallel.collectives import ProcessGroup, identity
from dscoder_exp.parallel.topology import Topology
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.names import parameter_shapes

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
def masters(begun: list[Handle]) -> MasterWeights:
    """Of the first of two replicas, whose values are all there."""
    start_device("cpu")

    def start_all_gather(into: Any, x: Any) -> Handle:
        begun.append(Handle())
        return begun[-1]

    replicas = ProcessGroup(2, 0, identity, identity, identity, lambda x: (x, Handle()), start_all_gather)
    mesh: Any = SimpleNamespace(replica_group=replicas, topology=Topology(0, data=2))
    shapes = parameter_shapes(CONFIG)
    names = list(shapes)
    groups = [names[:1], names[1:-2], names[-2:]]
    made = MasterWeights(groups, shapes, CONFIG, mesh, factors=False, device="cpu", dtype=float32)
    for name, shape in shapes.items():
        made.load(name, np.ones(shape, np.float32))
    return made


def test_what_is_gathered_while_loading_is_there_at_once(masters: MasterWeights, begun: list[Handle]) -> None:
    assert len(begun) == len(masters.buckets) == 5  # both tables, the block's matrices, its norms, the last norm
    assert all(handle.waits == 1 for handle in begun)


def test_a_group_waits_for_its_own_and_once(masters: MasterWeights, begun: list[Handle]) -> None:
    del begun[:]
    for number in range(len(masters.buckets)):
        masters.start_gather(number)
    masters.wait_group(0)
    masters.wait_group(0)
    assert [handle.waits for handle in begun].count(1) == 1
    masters.wait_all()
    assert all(handle.waits == 1 for handle in begun)


def test_a_gather_that_nobody_waited_for_is_waited_for_by_the_next(masters: MasterWeights, begun: list[Handle]) -> None:
    del begun[:]
    masters.start_gather(0)
    masters.start_gather(0)
    assert [handle.waits for handle in begun] == [1, 0]
