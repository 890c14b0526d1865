"""Every all-gather of weights that was started is waited for once: MindSpore requires that of every handle."""

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
def started() -> list[Handle]:
    return []


@pytest.fixture
def masters(started: list[Handle]) -> MasterWeights:
    """Loaded master weights of the first of two replicas."""
    start_device("cpu")

    def start_all_gather(into: Any, x: Any) -> Handle:
        started.append(Handle())
        return started[-1]

    replicas = ProcessGroup(2, 0, "ascend", identity, identity, identity, lambda x: (x, Handle()), start_all_gather)
    mesh: Any = SimpleNamespace(replica_group=replicas, topology=Topology(0, data=2))
    shapes = parameter_shapes(CONFIG)
    names = list(shapes)
    groups = [names[:1], names[1:-2], names[-2:]]
    made = MasterWeights(groups, shapes, CONFIG, mesh, factors=False, device="cpu", dtype=float32)
    for name, shape in shapes.items():
        made.load(name, np.ones(shape, np.float32))
    return made


def test_loading_waits_for_its_all_gathers(masters: MasterWeights, started: list[Handle]) -> None:
    assert len(started) == len(masters.buckets) == 5  # embedding, head, the block's matrices, its norms, the final norm
    assert all(handle.waits == 1 for handle in started)


def test_wait_group_waits_once_for_its_own_buckets(masters: MasterWeights, started: list[Handle]) -> None:
    del started[:]
    for number in range(len(masters.buckets)):
        masters.start_gather(number)
    masters.wait_group(0)
    masters.wait_group(0)
    assert [handle.waits for handle in started].count(1) == 1
    masters.wait_all()
    assert all(handle.waits == 1 for handle in started)


def test_start_gather_waits_for_the_buckets_previous_one(masters: MasterWeights, started: list[Handle]) -> None:
    del started[:]
    masters.start_gather(0)
    masters.start_gather(0)
    assert [handle.waits for handle in started] == [1, 0]
