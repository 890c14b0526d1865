"""AdamW's arithmetic, in C++ and by operators, against the paper's in fp64 (arXiv:1711.05101, algorithm 2)."""

import math

import mindspore as ms
import numpy as np
import pytest
from test_schedule import optim

from dscoder_exp.model.compiled import CompiledFunctions
from dscoder_exp.native.library import Library, library
from dscoder_exp.parallel.collectives import ALONE
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.training import optimizer
from dscoder_exp.training.optimizer import Update, arithmetic_for

SHAPES = [(3, 2**15 + 5), (7,), (2, 3)]  # one is more than optimizer.cc's PIECE and no whole number of them
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


@pytest.fixture(params=["C++", "no compiler"])  # Ascend's is one operator, without a CPU kernel
def arithmetic(request, monkeypatch):
    """Of settings, as it is chosen for a device."""
    if request.param == "no compiler":
        monkeypatch.setattr(optimizer, "library", lambda: Library(None, "there is none"))
    elif request.param == "C++" and library().path is None:
        pytest.skip(library().why)
    return lambda settings: arithmetic_for(
        settings, CompiledFunctions(CONFIG, None, ALONE, "cpu", "fp32", lambda name: None)
    )


@pytest.mark.parametrize("decay_norms", [False, True])
def test_a_few_steps_are_adamws(arithmetic, decay_norms):
    settings = optim(weight_decay=0.1, decay_norms=decay_norms, eps=1e-3)
    chosen = arithmetic(settings)
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    gradients = [[rng.standard_normal(shape).astype(np.float32) for shape in SHAPES] for _ in range(3)]
    weights = [ms.Tensor.from_numpy(array.copy()) for array in start]
    first, second = ([ms.Tensor.from_numpy(np.zeros(shape, np.float32)) for shape in SHAPES] for _ in range(2))
    decayed = [len(shape) > 1 or decay_norms for shape in SHAPES]
    for t, arrays in enumerate(gradients, 1):
        tensors = [ms.Tensor.from_numpy(array.copy()) for array in arrays]
        updated = chosen.update(Update(t, 0.01, SCALE, decayed, weights, first, second, tensors))
        assert list(updated) == [0, 1, 2]
        assert tensors == [], "their memory is free for what comes next"
    for i in range(len(SHAPES)):
        expected = by_the_paper(settings, start[i], [group[i] for group in gradients], 0.01)
        for tensor, array in zip((weights[i], first[i], second[i]), expected, strict=True):
            np.testing.assert_allclose(tensor.asnumpy(), array, rtol=1e-5, atol=1e-6)


def test_the_norm_is_over_all_buckets(arithmetic):
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(size).astype(np.float32) for size in (15, 7, 6)]
    tensors = [ms.Tensor.from_numpy(array) for array in values]
    expected = np.sqrt(sum(float(np.sum(np.square(array, dtype=np.float64))) for array in values))
    assert arithmetic(optim()).norm(tensors) == pytest.approx(expected, rel=1e-6)
    tensors[1] = ms.Tensor(np.full(7, np.nan, np.float32))
    assert np.isnan(arithmetic(optim()).norm(tensors))


class Array:
    """A tensor, as far as Ascend's update needs one."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def mul_(self, factor):
        self.values *= np.float32(factor)
        return self

    def view(self, shape):
        return Array(self.values.reshape(shape))


def fused_adamw(weight, first, second, highest, gradient, step, lr, beta1, beta2, decay, eps, amsgrad, maximize):
    """aclnnApplyAdamWV2: arrays of one shape. Its page wants steps above 0, its kernel adds 1 to what it is given
    (hicann/ops-nn, optim/apply_adam_w_v2, apply_adam_w_v2_fp.h), and MindSpore's own optimizer gives it steps from 0.
    """
    assert weight.shape == first.shape == second.shape == gradient.shape
    assert highest is second
    assert (amsgrad, maximize) == (False, False)
    t, g = float(step.asnumpy()[0]) + 1, gradient.values
    first.values[:] = beta1 * first.values + (1 - beta1) * g
    second.values[:] = beta2 * second.values + (1 - beta2) * g**2
    change = first.values / (1 - beta1**t) / (np.sqrt(second.values / (1 - beta2**t)) + eps)
    weight.values[:] -= lr * (change + decay * weight.values)


def test_ascends_operator_is_asked_for_adamw(monkeypatch):
    """It has no CPU kernel; a stand-in computes what it says. A gradient may come in its tensor's own shape."""
    monkeypatch.setattr(optimizer, "FusedAdamW", lambda: fused_adamw)
    settings = optim(weight_decay=0.1, eps=1e-3)
    chosen = arithmetic_for(settings, CompiledFunctions(CONFIG, None, ALONE, "ascend", "bf16", lambda name: None))
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(math.prod(shape)).astype(np.float32) for shape in SHAPES]
    weights, first, second = ([Array(a.copy() * part) for a in start] for part in (1, 0, 0))
    steps = [[rng.standard_normal(shape).astype(np.float32) for shape in SHAPES] for _ in range(3)]
    decayed = [len(shape) > 1 for shape in SHAPES]
    for t, gradients in enumerate(steps, 1):
        arrays = [Array(gradient.copy()) for gradient in gradients]
        taken = chosen.update(Update(t, 0.01, SCALE, decayed, weights, first, second, arrays))  # type: ignore[arg-type]
        for bucket in taken:
            assert len(arrays) == 2 - bucket, "each is let go before the next bucket is taken"
    for i, shape in enumerate(SHAPES):
        expected, _, _ = by_the_paper(settings, start[i].reshape(shape), [gradients[i] for gradients in steps], 0.01)
        np.testing.assert_allclose(weights[i].values.reshape(shape), expected, rtol=1e-5, atol=1e-6)
    assert chosen.norm([]) == 0, "of a rank that counts nothing"
