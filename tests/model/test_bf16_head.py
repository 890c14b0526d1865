"""bf16 rounding of the head's backward on Ascend, emulated on the CPU, as test_bf16_rounding.py does for a block.

head.py runs on bf16 tensors; matrix products and sums, which MindSpore lacks in bf16 on the CPU, are computed in fp32
and rounded once. `python tests/model/test_bf16_head.py` prints the errors.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from bf16_support import HEAD_CASES, HEAD_GRADIENTS, SEEDS, STRIDE, VOCABULARY, Array, errors, head_inputs
from mindspore import ops
from test_bf16_rounding import CONFIG, SLACK, reference

from dscoder_exp.model.head import make_head
from dscoder_exp.model.kernels import Kernels, cpu
from dscoder_exp.parallel.collectives import ALONE


def kernel_table(dtype: Any) -> Kernels:
    """The kernels that the head uses, computed in fp32, with results in `dtype`."""

    def wide(x):
        return ops.cast(x, ms.float32)

    def in_fp32(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arrays: ops.cast(function(*map(wide, arrays)), dtype)

    def rms_norm(x, weight, eps):
        y, rstd = cpu.rms_norm(wide(x), wide(weight), eps)
        return ops.cast(y, dtype), rstd

    def rms_norm_backward(dy, x, rstd, weight):
        dx, dweight = cpu.rms_norm_backward(wide(dy), wide(x), rstd, wide(weight))
        return ops.cast(dx, dtype), dweight

    def add_linear_dweight(total, dy, x):
        ops.assign_add(total, ops.cast(in_fp32(cpu.linear_dweight)(dy, x), ms.float32))

    functions = dict.fromkeys((field.name for field in fields(Kernels)), None) | {
        "linear": in_fp32(cpu.linear),
        "linear_dx": in_fp32(cpu.linear_dx),
        "add_linear_dweight": add_linear_dweight,
        "softmax_gradient": cpu.softmax_gradient,
        "rms_norm": rms_norm,
        "rms_norm_backward": rms_norm_backward,
        "take_rows": lambda table, ids: ops.cast(cpu.take_rows(wide(table), ids), table.dtype),
        "add_at": cpu.add_at,
        "widen": cpu.widen,
        "add_rows": lambda table, ids, x: cpu.add_rows(table, ids, ops.cast(x, table.dtype)),
    }
    return Kernels(**functions)  # type: ignore[arg-type]


def gradients(case: str, seed: int, dtype: Any) -> dict[str, Array]:
    """Gradients of the summed loss. dx is an fp32 array; its rows are rounded to `dtype` before they are added."""
    config = replace(CONFIG, vocab_size=VOCABULARY)
    _, _, loss_backward = make_head(config, kernel_table(dtype), ALONE.tp_group)
    x, norm, table, labels = (ms.Tensor(array) for array in head_inputs(case, seed))
    rows, counts = (ms.Tensor(values.astype(np.int32)) for values in (np.arange(len(labels)), np.ones(len(labels))))
    total, dx, *trained = (ms.Tensor(np.zeros(shape, np.float32)) for shape in ((1,), x.shape, norm.shape, table.shape))
    factor = ms.Tensor(np.array(1, np.float32))
    loss_backward(ops.cast(x, dtype), rows, labels, counts, factor, norm, table, total, dx, *trained)
    return {name: array.asnumpy() for name, array in zip(HEAD_GRADIENTS, (dx, *trained), strict=True)}


@cache
def exact_gradients(case: str, seed: int) -> dict[str, Array]:
    return gradients(case, seed, ms.float32)


def errors_of(case: str) -> dict[str, float]:
    """Each gradient's relative error against fp32."""
    return errors(
        [gradients(case, seed, ms.bfloat16) for seed in SEEDS], [exact_gradients(case, seed) for seed in SEEDS]
    )


def errors_of_pytorch(case: str) -> dict[str, float]:
    return dict(zip(HEAD_GRADIENTS, reference()[f"head.{case}"].tolist(), strict=True))


@pytest.mark.parametrize("case", HEAD_CASES)
def test_fp32_gradients_equal_pytorchs(case: str) -> None:
    for name, gradient in exact_gradients(case, SEEDS[0]).items():
        theirs = reference()[f"head.{case}.fp32.{name}"]
        assert np.linalg.norm(gradient.reshape(-1)[::STRIDE] - theirs) < 1e-5 * np.linalg.norm(theirs), name


@pytest.mark.slow
@pytest.mark.parametrize("case", HEAD_CASES)
def test_bf16_gradients_are_as_close_to_fp32_as_pytorchs(case: str) -> None:
    """Also where losses are small, so that p - 1 at the label is small."""
    allowed, found = errors_of_pytorch(case), errors_of(case)
    assert [name for name in HEAD_GRADIENTS if found[name] > allowed[name] * SLACK] == []


if __name__ == "__main__":
    for case in HEAD_CASES:
        print(case, "PyTorch", errors_of_pytorch(case), "Ascend's kernels", errors_of(case))
