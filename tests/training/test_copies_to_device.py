"""A training step copies its batch to the device once, and nothing else: calls of `put`, counted on the CPU.

tests/ascend counts the copies themselves.
"""

import sys

import numpy as np
import pytest
from test_lora_dropout import adapted
from test_schedule import optim
from test_step import fresh_model, sequences

from dscoder_exp.device import memory
from dscoder_exp.model.kernels import cpu, native  # noqa: F401  # imported before the fixture patches modules
from dscoder_exp.training.step import Step


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """All arrays that any module puts on the device, in order."""
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
def test_a_step_copies_its_batch_and_no_more(copies: list[np.ndarray], trains: str) -> None:
    model = fresh_model() if trains == "all" else adapted(0.0)
    assert sum(array.nbytes for array in copies) > 4 * 100_000  # the weights, and more
    step = Step(model, optim(), recompute="full")
    step([sequences(2)], 1e-3)
    copies.clear()
    step([sequences(2, seed=1), sequences(2, seed=2)], 1e-3)
    arrays_a_batch = 6  # ids, positions, mask, and rows, labels and counts of one chunk
    assert len(copies) == 2 * arrays_a_batch
    assert all(array.nbytes <= 3 * sequences(2).ids.nbytes for array in copies)
