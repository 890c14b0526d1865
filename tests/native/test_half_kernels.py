"""The C++ kernels in bf16 and fp16: what they compute in fp32 from the same values, rounded once."""

from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from test_native_kernels import DOCUMENTS, HEADS, KEY_HEADS, arrays

from dscoder_exp.model.kernels.native import native_functions
from dscoder_exp.native.library import library

DTYPES = {"bf16": ms.bfloat16, "fp16": ms.float16}
UNITS = {"bf16": 2.0**-8, "fp16": 2.0**-11}  # largest relative error of rounding
ROWS = 70

PATH = library().path or Path()
pytestmark = pytest.mark.skipif(library().path is None, reason=library().why)


@pytest.fixture(params=DTYPES)
def precision(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["oneDNN", "MindSpore"])
def half(request, precision):
    """The kernel table's functions, with oneDNN's matrix products or with MindSpore's."""
    return native_functions(PATH, precision, products=request.param and library().products)


@pytest.fixture(scope="module")
def exact():
    return native_functions(PATH, "fp32", products=library().products)


@pytest.fixture
def tensor(precision):
    """Draws fp32 values that are exact in the precision."""
    rng = np.random.default_rng(0)
    return lambda *shape: (
        ms.Tensor(rng.standard_normal(shape).astype(np.float32)).astype(DTYPES[precision]).astype(ms.float32)
    )


def compare(found, expected, unit):
    """Equal within one rounding, and twice where fp32 sums in another order fall on the other side."""
    found = found if isinstance(found, tuple) else (found,)
    for mine, theirs in zip(found, arrays(expected), strict=True):
        values = mine.astype(ms.float32).asnumpy()
        assert values.shape == theirs.shape
        np.testing.assert_allclose(values, theirs, rtol=2 * unit, atol=1e-4 * np.abs(theirs).max())


def test_a_result_is_fp32s_rounded_once(half, exact, tensor, precision):
    def same(name, *inputs, others=()):
        narrow = [x.astype(DTYPES[precision]) for x in inputs]
        compare(half[name](*narrow, *others), exact[name](*inputs, *others), UNITS[precision])

    x, dy, weight = tensor(ROWS, 40), tensor(ROWS, 72), tensor(72, 40)
    same("linear", x, weight)
    same("linear_dx", dy, weight)
    same("linear_dweight", dy, x)
    same("rms_norm", x, tensor(40), others=(1e-5,))
    same("swiglu", dy, tensor(ROWS, 72))
    same("swiglu_backward", dy, dy, tensor(ROWS, 72))
    labels = ms.Tensor(np.arange(ROWS, dtype=np.int32))
    same("softmax_gradient", dy, others=(labels,))
    rstd, weight = ms.Tensor(np.random.default_rng(1).random((ROWS, 1)).astype(np.float32)), tensor(40)
    narrow = (array.astype(DTYPES[precision]) for array in (x, x))
    expected = exact["rms_norm_backward"](x, x, rstd, weight)
    compare(half["rms_norm_backward"](*narrow, rstd, weight), expected, UNITS[precision])
    cos, sin = tensor(2, ROWS // 2, 1, 10), tensor(2, ROWS // 2, 1, 10)
    same("rotate", tensor(2, ROWS // 2, 3, 10), others=(cos, sin))


def test_what_mindspore_lacks(half, tensor, precision):
    dtype = DTYPES[precision]
    x, y, cos = tensor(6, 12), tensor(6, 12), tensor(2, 3, 1, 4)
    narrow = x.astype(dtype)
    split = half["split_heads"](narrow, cos)
    assert (split.shape, half["join_heads"](split).shape) == ((2, 3, 3, 4), (6, 12))
    for found, expected in (
        (half["add"](narrow, y.astype(dtype)), (x + y).astype(dtype)),
        (half["join_heads"](split), narrow),
        (half["widen"](narrow), x),
        (half["narrow"](x / 3, narrow), (x / 3).astype(dtype)),
        (half["take_rows"](narrow, ms.Tensor(np.array([4, 1, 4], np.int32))), ms.Tensor(x.asnumpy()[[4, 1, 4]])),
    ):
        np.testing.assert_array_equal(found.astype(ms.float32).asnumpy(), expected.astype(ms.float32).asnumpy())


def test_in_place_functions_write_to_their_first_argument(half, tensor, precision):
    dtype = DTYPES[precision]
    table, rows, x, dy = tensor(5, 12).astype(dtype), tensor(3, 12), tensor(7, 12), tensor(7, 9)
    before, total = table.astype(ms.float32).asnumpy(), ms.Tensor(np.ones((9, 12), np.float32))

    def both(table, ids, rows, total, dy, x):
        half["add_rows"](table, ids, rows)
        half["add_linear_dweight"](total, dy, x)
        return ids

    ids = np.array([4, 1, 2], np.int32)
    compiled: Any = ms.jit(both)
    compiled(table, ms.Tensor(ids), rows.astype(dtype), total, dy.astype(dtype), x.astype(dtype))
    before[ids] += rows.asnumpy()
    np.testing.assert_allclose(table.astype(ms.float32).asnumpy(), before, rtol=UNITS[precision])
    np.testing.assert_allclose(total.asnumpy(), 1 + dy.asnumpy().T @ x.asnumpy(), rtol=0, atol=16 * UNITS[precision])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_attention(half, exact, tensor, precision, name):
    """Probabilities are rounded, too, before the products."""
    documents = np.array(DOCUMENTS[name], np.int32)
    q, k, v = (tensor(*documents.shape, heads, 24) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    dout = tensor(documents.size, HEADS * 24)
    mask = exact["attention_mask"](documents)
    out, saved = exact["attention"](q, k, v, mask)
    expected = out, *exact["attention_backward"](dout, out, q, k, v, mask, saved)
    narrow = [array.astype(DTYPES[precision]) for array in (dout, q, k, v)]
    mine, kept = half["attention"](*narrow[1:], mask)
    found = mine, *half["attention_backward"](narrow[0], mine, *narrow[1:], mask, kept)
    for one, other in zip(found, arrays(expected), strict=True):
        difference = np.linalg.norm(one.astype(ms.float32).asnumpy() - other)
        assert difference < UNITS[precision] * np.linalg.norm(other)
