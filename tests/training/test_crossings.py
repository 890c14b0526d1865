"""What a step brings crosses to the device once, and nothing else does: beside tests/device, on the CPU.

tests/ascend counts the copies themselves.
"""

import sys

import numpy as np
import pytest
from test_lora_dropout import adapted
from test_schedule import optim
from test_step import fresh_model, sequences

from dscoder_exp.device import memory
from dscoder_exp.model.kernels import cpu, native  # noqa: F401  # which are imported late otherwise
from dscoder_exp.training.step import Step


@pytest.fixture
def crossings(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """All arrays that go to the device from now on, wherever."""
    found: list[np.ndarray] = []

    def watched(function):
        def run(*arrays):
            found.extend(arrays)
            return function(*arrays)

        return run

    for name in ("put", "put_all"):
        function, instead = getattr(memory, name), watched(getattr(memory, name))
        for path, module in list(sys.modules.items()):
            if path.startswith("dscoder_exp.") and module is not memory and getattr(module, name, None) is function:
                monkeypatch.setattr(module, name, instead)
    return found


@pytest.mark.parametrize("trains", ["all", "lora"])
def test_a_step_brings_its_batch_and_no_more(crossings: list[np.ndarray], trains: str) -> None:
    model = fresh_model() if trains == "all" else adapted(0.0)
    assert sum(array.nbytes for array in crossings) > 4 * 100_000  # the weights, and more
    step = Step(model, optim(), recompute="full")
    step([sequences(2)], 1e-3)
    crossings.clear()
    step([sequences(2, seed=1), sequences(2, seed=2)], 1e-3)
    ids_positions_mask_and_a_chunks_three = 6
    assert len(crossings) == 2 * ids_positions_mask_and_a_chunks_three
    assert all(array.nbytes <= 3 * sequences(2).ids.nbytes for array in crossings)
