"""AdamW's arithmetic on either device against the paper's, written down in fp64 (arXiv:1711.05101, algorithm 2)."""

import os

import mindspore as ms
import numpy as np
import pytest
from test_schedule import optim

from dscoder_exp.model.device import host_threads
from dscoder_exp.model.units import Units
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.training.update import PIECE, Numbers, make_update

SHAPES = [(3, PIECE // 2 + 5), (7,), (2, 3)]  # one is more than a piece and no whole number of them
SCALE = 0.25
CONFIG = LlamaConfig(32, 16, 32, 1, 2, 1, 8, 64, 1e-6, 10000.0, None, False, 0, 1, 2)


def by_the_paper(optim, weight, gradients, lr):
    """A weight after a step with each of the gradients; its two moments."""
    beta1, beta2 = optim.betas
    decay = optim.weight_decay if optim.decay_norms or weight.ndim > 1 else 0.0
    weight, first, second = weight.astype(np.float64), 0.0, 0.0
    for t, gradient in enumerate(gradients, 1):
        gradient = SCALE * gradient.astype(np.float64)
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        change = first / (1 - beta1**t) / (np.sqrt(second / (1 - beta2**t)) + optim.eps)
        weight = weight - lr * (change + decay * weight)
    return weight, first, second


# Ascend's operator has a CPU kernel, too.
@pytest.mark.parametrize(("device", "threads"), [("cpu", "1"), ("cpu", "3"), ("ascend", "1")])
@pytest.mark.parametrize("decay_norms", [False, True])
def test_a_few_steps_are_adamws(device, threads, decay_norms, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    settings = optim(weight_decay=0.1, decay_norms=decay_norms, eps=1e-3)
    update = make_update(settings, Units(CONFIG, None, device, "fp32", lambda name: None))
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    gradients = [[rng.standard_normal(shape).astype(np.float32) for shape in SHAPES] for _ in range(3)]
    weights = [ms.Tensor.from_numpy(array.copy()) for array in start]
    first, second = ([ms.Tensor.from_numpy(np.zeros(shape, np.float32)) for shape in SHAPES] for _ in range(2))
    for t, group in enumerate(gradients, 1):
        tensors = [ms.Tensor.from_numpy(array.copy()) for array in group]
        update(Numbers.of(settings, t, 0.01, SCALE), weights, first, second, tensors)
    for i in range(len(SHAPES)):
        expected = by_the_paper(settings, start[i], [group[i] for group in gradients], 0.01)
        for tensor, array in zip((weights[i], first[i], second[i]), expected, strict=True):
            np.testing.assert_allclose(tensor.asnumpy(), array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("asked", "threads"), [("3", 3), ("4,2", 4), ("0", None), ("", None), ("all", None)])
def test_threads_are_those_of_openmps_first_level_or_the_cores(asked, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert host_threads() == (threads or len(os.sched_getaffinity(0)))
