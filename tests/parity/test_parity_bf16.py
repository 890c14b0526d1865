"""Twenty optimizer steps in bf16 and fp16: as near to PyTorch's fp32 ones as PyTorch's own bf16 is
(tests/reference/make_bf16_training.py).
"""

import json

import numpy as np
import pytest
from parity_support import REPOSITORY, arrays, to_train
from test_parity_training import FOLDERS, optim_of, whole_batch

THEIRS = json.loads((REPOSITORY / "tests" / "reference" / "bf16_training.json").read_text())
# An error is the result of some thousand roundings: two runs' root mean squares over 20 steps differ by a tenth or two.
SLACK = 1.2


def rms(differences):
    return float(np.sqrt(np.mean(np.square(differences))))


def errors_of(loss, grad_norm, curve):
    return np.array([rms(loss - curve["loss"]), rms(grad_norm / curve["grad_norm_before_clip"] - 1)])


def curve_of(folder, precision):
    from dscoder_exp.native.library import library
    from dscoder_exp.training.step import Step

    if library().path is None:
        pytest.skip(library().why)
    hyper, curve = json.loads((folder / "hparams_and_curve.json").read_text()), arrays(folder, "curve.npz")
    model = to_train(folder.parent / hyper["init_checkpoint"].rpartition("/")[2], precision)
    step, found = Step(model, optim_of(hyper), recompute="none"), []
    for batches, lr in zip(curve["batches"], curve["lr"], strict=True):
        found.append(step([whole_batch(ids.astype(np.int32)) for ids in batches], float(lr)))
    return [result.loss for result in found], [result.grad_norm for result in found]


@pytest.mark.slow
@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder.values[0].name in THEIRS])
def test_losses_and_gradient_norms_are_as_near_to_fp32_as_pytorchs(folder):
    curve = arrays(folder, "curve.npz")
    theirs = [errors_of(run["loss"], run["grad_norm"], curve) for run in THEIRS[folder.name].values()]
    bound = np.max(theirs, 0)
    assert (errors_of(*curve_of(folder, "bf16"), curve) < SLACK * bound).all()
    assert (errors_of(*curve_of(folder, "fp16"), curve) < SLACK * bound / 4).all()  # 3 more bits, and a loss scale
