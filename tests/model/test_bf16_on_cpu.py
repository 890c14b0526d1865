"""bf16 as the CPU computes it in C++: each gradient of a block and of the head is as near to fp32 as PyTorch's bf16 one
(tests/reference/make_bf16_block.py), and as the emulation of Ascend's kernels, which round at the same places.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from bf16_support import CASES, GRADIENTS, HEAD_CASES, HEAD_GRADIENTS, LENGTHS, SEEDS, VOCABULARY, head_inputs, inputs
from bf16_support import errors as relative_errors
from bf16_support import positions as positions_of
from test_bf16_head import errors_of_pytorch as head_errors_of_pytorch
from test_bf16_head import exact_gradients as exact_head_gradients
from test_bf16_rounding import ASCEND, CONFIG, SLACK, errors_of, errors_of_pytorch, exact_gradients

from dscoder_exp.device.start import start_device
from dscoder_exp.model.block import make_block
from dscoder_exp.model.head import make_head
from dscoder_exp.model.kernels import kernels_for
from dscoder_exp.model.rotary import rotary_tables
from dscoder_exp.model.tensor_parallel import make_block_collectives
from dscoder_exp.native.library import library
from dscoder_exp.parallel.collectives import ALONE

pytestmark = [pytest.mark.slow, pytest.mark.skipif(library().path is None, reason=library().why)]


def bf16(array):
    return ms.Tensor(array).astype(ms.bfloat16)


@cache
def compiled_block():
    start_device("cpu")
    kernels = kernels_for("cpu", "bf16")
    forwards, backwards = make_block(CONFIG, kernels, make_block_collectives(ALONE, sequence=False))
    documents = np.repeat(np.arange(len(LENGTHS), dtype=np.int32), LENGTHS)[None]
    tables = [ms.Tensor(table[None, :, None]) for table in rotary_tables(CONFIG, positions_of())]
    forward: Any = ms.jit(forwards["none"])
    backward: Any = ms.jit(backwards["none"])
    return forward, backward, [*tables, *kernels.attention_mask(documents)]


def gradients(case, seed):
    forward, backward, shared = compiled_block()
    x, dy, weights = inputs(case, seed)
    tensors = [*shared, *map(bf16, weights.values())]
    _, *saved = forward(bf16(x), *tensors)
    found = backward(bf16(dy), bf16(x), *tensors, *saved)
    return {name: gradient.float().asnumpy() for name, gradient in zip(GRADIENTS, found, strict=True)}


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_a_block_are_as_near_to_fp32_as_pytorchs_and_as_ascends(case):
    found = relative_errors([gradients(case, seed) for seed in SEEDS], exact_gradients(case))
    theirs, ascends = errors_of_pytorch(case), errors_of(case, ASCEND)
    assert [name for name in GRADIENTS if found[name] > theirs[name] * SLACK] == [], found
    # A little farther from fp32, or nearer: Ascend's AddRmsNorm rounds once more.
    assert [name for name in GRADIENTS if found[name] > 1.1 * ascends[name]] == [], found


@cache
def compiled_head():
    start_device("cpu")
    config = replace(CONFIG, vocab_size=VOCABULARY)
    loss_backward: Any = ms.jit(make_head(config, kernels_for("cpu", "bf16"), ALONE.tp_group)[2])
    return loss_backward


def head_gradients(case, seed):
    x, norm, table, labels = head_inputs(case, seed)
    rows, counts = (ms.Tensor(values.astype(np.int32)) for values in (np.arange(len(labels)), np.ones(len(labels))))
    total, *trained = (ms.Tensor(np.zeros(shape, np.float32)) for shape in ((1,), norm.shape, table.shape))
    dx, factor = bf16(np.zeros(x.shape, np.float32)), ms.Tensor(np.array(1, np.float32))
    weights = bf16(norm), bf16(table)
    compiled_head()(bf16(x), rows, ms.Tensor(labels), counts, factor, *weights, total, dx, *trained).wait_pipeline()
    return {n: array.float().asnumpy() for n, array in zip(HEAD_GRADIENTS, (dx, *trained), strict=True)}


@pytest.mark.parametrize("case", HEAD_CASES)
def test_gradients_of_the_head_are_as_near_to_fp32_as_pytorchs(case):
    exact = [exact_head_gradients(case, seed) for seed in SEEDS]
    found = relative_errors([head_gradients(case, seed) for seed in SEEDS], exact)
    theirs = head_errors_of_pytorch(case)
    assert [name for name in HEAD_GRADIENTS if found[name] > theirs[name] * SLACK] == [], found
