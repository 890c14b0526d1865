"""AdamW's backends, in C++ and by operators, against algorithm 2 of arXiv:1711.05101 in fp64."""

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
from dscoder_exp.training.optimizer import Update, select_backend

SHAPES = [(3, 2**15 + 5), (7,), (2, 3)]  # the first is larger than optimizer.cc's CHUNK and no multiple of it
SCALE = 0.25
CONFIG = LlamaConfig(32, 16, 32, 1, 2, 1, 8, 64, 1e-6, 10000.0, None, False, 0, 1, 2)


def by_the_paper(optim, weight, gradients, lr):
    """(weight, first moment, second moment) after one step with each of the gradients, in fp64."""
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


@pytest.fixture(params=["C++", "no compiler"])  # not Ascend's, whose operator has no CPU kernel
def backend_of(request, monkeypatch):
    """A function from settings to the CPU's backend."""
    if request.param == "no compiler":
        monkeypatch.setattr(optimizer, "library", lambda: Library(None, "there is none"))
    elif request.param == "C++" and library().path is None:
        pytest.skip(library().why)
    return lambda settings: select_backend(
        settings, CompiledFunctions(CONFIG, None, ALONE, "cpu", "fp32", lambda name: None)
    )


@pytest.mark.parametrize("decay_norms", [False, True])
def test_three_updates_equal_the_papers(backend_of, decay_norms):
    settings = optim(weight_decay=0.1, decay_norms=decay_norms, eps=1e-3)
    backend = backend_of(settings)
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    gradients = [[rng.standard_normal(shape).astype(np.float32) for shape in SHAPES] for _ in range(3)]
    weights = [ms.Tensor.from_numpy(array.copy()) for array in start]
    first, second = ([ms.Tensor.from_numpy(np.zeros(shape, np.float32)) for shape in SHAPES] for _ in range(2))
    decayed = [len(shape) > 1 or decay_norms for shape in SHAPES]
    for t, arrays in enumerate(gradients, 1):
        tensors = [ms.Tensor.from_numpy(array.copy()) for array in arrays]
        updated = backend.update(Update(t, 0.01, SCALE, decayed, weights, first, second, tensors))
        assert list(updated) == [0, 1, 2]
        assert tensors == [], "gradients are released"
    for i in range(len(SHAPES)):
        expected = by_the_paper(settings, start[i], [group[i] for group in gradients], 0.01)
        for tensor, array in zip((weights[i], first[i], second[i]), expected, strict=True):
            np.testing.assert_allclose(tensor.asnumpy(), array, rtol=1e-5, atol=1e-6)


def test_the_norm_is_over_all_buckets(backend_of):
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(size).astype(np.float32) for size in (15, 7, 6)]
    tensors = [ms.Tensor.from_numpy(array) for array in values]
    expected = np.sqrt(sum(float(np.sum(np.square(array, dtype=np.float64))) for array in values))
    assert backend_of(optim()).norm(tensors) == pytest.approx(expected, rel=1e-6)
    tensors[1] = ms.Tensor(np.full(7, np.nan, np.float32))
    assert np.isnan(backend_of(optim()).norm(tensors))


class Array:
    """Stands in for a tensor in Ascend's backend."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def mul_(self, factor):
        self.values *= np.float32(factor)
        return self

    def view(self, shape):
        return Array(self.values.reshape(shape))


def fused_adamw(weight, first, second, highest, gradient, step, lr, beta1, beta2, decay, eps, amsgrad, maximize):
    """aclnnApplyAdamWV2 on arrays of one shape.

    Its documentation asks for steps above 0, but its kernel adds 1 to its argument (hicann/ops-nn,
    optim/apply_adam_w_v2, apply_adam_w_v2_fp.h), and MindSpore's own optimizer passes steps from 0.
    """
    assert weight.shape == first.shape == second.shape == gradient.shape
    assert highest is second
    assert (amsgrad, maximize) == (False, False)
    t, g = float(step.asnumpy()[0]) + 1, gradient.values
    first.values[:] = beta1 * first.values + (1 - beta1) * g
    second.values[:] = beta2 * second.values + (1 - beta2) * g**2
    change = first.values / (1 - beta1**t) / (np.sqrt(second.values / (1 - beta2**t)) + eps)
    weight.values[:] -= lr * (change + decay * weight.values)


def test_ascends_backend_passes_adamws_arguments(monkeypatch):
    """The operator has no CPU kernel, so a stand-in computes it. A gradient may have its tensor's own shape."""
    monkeypatch.setattr(optimizer, "FusedAdamW", lambda: fused_adamw)
    settings = optim(weight_decay=0.1, eps=1e-3)
    backend = select_backend(settings, CompiledFunctions(CONFIG, None, ALONE, "ascend", "bf16", lambda name: None))
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(math.prod(shape)).astype(np.float32) for shape in SHAPES]
    weights, first, second = ([Array(a.copy() * part) for a in start] for part in (1, 0, 0))
    steps = [[rng.standard_normal(shape).astype(np.float32) for shape in SHAPES] for _ in range(3)]
    decayed = [len(shape) > 1 for shape in SHAPES]
    for t, gradients in enumerate(steps, 1):
        arrays = [Array(gradient.copy()) for gradient in gradients]
        updated = backend.update(Update(t, 0.01, SCALE, decayed, weights, first, second, arrays))  # type: ignore[arg-type]
        for bucket in updated:
            assert len(arrays) == 2 - bucket, "a gradient is released before the next bucket is updated"
    for i, shape in enumerate(SHAPES):
        expected, _, _ = by_the_paper(settings, start[i].reshape(shape), [gradients[i] for gradients in steps], 0.01)
        np.testing.assert_allclose(weights[i].values.reshape(shape), expected, rtol=1e-5, atol=1e-6)
    assert backend.norm([]) == 0, "a rank whose slices other ranks count"
