"""The C++ kernels against MindSpore's operators, for many shapes; tests/parity compares with PyTorch."""

import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from dscoder_exp.model.kernels import cpu
from dscoder_exp.model.kernels.native import native_functions
from dscoder_exp.native.library import library

HEADS, KEY_HEADS = 6, 2
ROWS = [1, 7, 64, 200]
SIZES = [6, 24, 64, 80]  # of a head: less than a vector, no multiple of one, and multiples


@pytest.fixture(scope="module")
def native():
    built = library()
    if built.path is None:
        pytest.skip(built.why)
    return native_functions(built.path, "fp32")


@pytest.fixture
def tensor():
    rng = np.random.default_rng(0)
    return lambda *shape: ms.Tensor(rng.standard_normal(shape).astype(np.float32))


def arrays(result):
    parts = result if isinstance(result, tuple) else (result,)
    return [part.asnumpy() for part in parts]


def assert_same(mine, theirs, tolerance=2e-5):  # an fp32 sum of 200 products has an error of up to 200 * 2^-24
    for found, expected in zip(arrays(mine), arrays(theirs), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rows", ROWS)
def test_products(native, tensor, rows):
    x, dy, weight = tensor(rows, 40), tensor(rows, 72), tensor(72, 40)
    assert_same(native["linear"](x, weight), cpu.linear(x, weight))
    assert_same(native["linear_dx"](dy, weight), cpu.linear_dx(dy, weight))
    assert_same(native["linear_dweight"](dy, x), cpu.linear_dweight(dy, x))
    a, b, inner = tensor(4, 40), tensor(72, 4), tensor(rows, 4)
    assert_same(native["lora_linear"](x, x * 2, weight, a, b, 0.5), cpu.lora_linear(x, x * 2, weight, a, b, 0.5))
    assert_same(native["lora_linear_dx"](dy, inner, weight, a), cpu.lora_linear_dx(dy, inner, weight, a))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", [16, 100])
def test_rms_norm(native, tensor, rows, size):
    x, weight, dy = tensor(rows, size), tensor(size), tensor(rows, size)
    y, rstd = cpu.rms_norm(x, weight, 1e-5)
    assert_same(native["rms_norm"](x, weight, 1e-5), (y, rstd))
    assert_same(native["rms_norm_backward"](dy, x, rstd, weight), cpu.rms_norm_backward(dy, x, rstd, weight))


def test_rotate_and_swiglu(native, tensor):
    x, cos, sin = tensor(2, 9, 3, 10), tensor(2, 9, 1, 10), tensor(2, 9, 1, 10)
    assert_same(native["rotate"](x, cos, sin), cpu.rotate(x, cos, sin))
    gate, up, dy = tensor(50, 33) * 30, tensor(50, 33), tensor(50, 33)  # sigmoid saturates on both sides
    assert_same(native["swiglu"](gate, up), cpu.swiglu(gate, up), 1e-4)
    assert_same(native["swiglu_backward"](dy, gate, up), cpu.swiglu_backward(dy, gate, up), 1e-4)


DOCUMENTS = {
    "one": [[0] * 200],
    "short": [[*[0] * 3, *[1] * 90, *[2] * 64, *[3] * 43], [*[0] * 100, 1, *[2] * 99]],
    "padded": [[*[0] * 130, *[-1] * 70], [-1] * 200],
    "holes": [[*[0] * 20, *[1] * 70, *[0] * 20, *[-1] * 5, *[1] * 5, *[2] * 80], [*[-1] * 10, *[4] * 190]],
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_attention(native, tensor, name, size):
    documents = np.array(DOCUMENTS[name], np.int32)
    batch, length = documents.shape
    q, k, v = (tensor(batch, length, heads, size) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    counted = ms.Tensor((documents >= 0).reshape(-1, 1).astype(np.float32))
    dout = tensor(batch * length, HEADS * size) * counted
    results = []
    for table in (native, vars(cpu)):
        mask = table["attention_mask"](documents)
        out, saved = table["attention"](q, k, v, mask)
        gradients = table["attention_backward"](dout, out, q, k, v, mask, saved)
        results.append((out * counted, *gradients))
        assert np.isfinite(out.asnumpy()).all()  # padding too
    assert_same(*results)


@pytest.mark.parametrize("ranks", [2, 5])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_attention_of_context_ranks(native, tensor, name, ranks):
    """Each rank has its positions' queries and all keys. Outputs are concatenated, gradients of keys summed."""
    documents = np.array(DOCUMENTS[name], np.int32)
    batch, length = documents.shape
    q, k, v = (tensor(batch, length, heads, 16) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    dout = tensor(batch, length, HEADS * 16)
    mask = native["attention_mask"](documents)
    out, saved = native["attention"](q, k, v, mask)
    gradients = native["attention_backward"](dout.reshape(out.shape), out, q, k, v, mask, saved)
    outs, dqs, dks, dvs = [], [], [], []
    for rank in range(ranks):
        own = slice(rank * length // ranks, (rank + 1) * length // ranks)
        queries, mask = q[:, own], native["attention_mask"](documents, rank, ranks)
        part, kept = native["attention"](queries, k, v, mask)
        own_dout = dout[:, own].reshape(part.shape)
        dq, dk, dv = native["attention_backward"](own_dout, part, queries, k, v, mask, kept)
        outs.append(part.asnumpy().reshape(batch, length // ranks, -1))
        for found, values in zip((dqs, dks, dvs), (dq, dk, dv), strict=True):
            found.append(values.asnumpy())
    assert_same(ms.Tensor(np.concatenate(outs, 1).reshape(out.shape)), out)
    whole = np.concatenate(dqs, 1), np.sum(dks, 0), np.sum(dvs, 0)
    assert_same(tuple(ms.Tensor(array) for array in whole), gradients)


def test_nan_stays_nan(native, tensor):
    """Otherwise a step whose loss is NaN would not be skipped."""
    mask = native["attention_mask"](np.zeros((1, 70), np.int32))
    for at in range(3):
        q_k_v = [tensor(1, 70, heads, 16).asnumpy() for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
        q_k_v[at][0, 5, 1] = np.nan
        out, _ = native["attention"](*(ms.Tensor(array) for array in q_k_v), mask)
        assert np.isnan(out.asnumpy()).any()
    broken = tensor(4, 16).asnumpy()
    broken[2, 3] = np.nan
    for name, others in (("rms_norm", (tensor(16), 1e-5)), ("swiglu", (tensor(4, 16),)), ("linear", (tensor(8, 16),))):
        assert np.isnan(arrays(native[name](ms.Tensor(broken), *others))[0][2]).any(), name


BYTES = """
import sys
import numpy as np
from dscoder_exp.device.start import start_device
start_device("cpu")
from test_native_kernels import *
functions, rng = native_functions(library().path, "fp32"), np.random.default_rng(0)
def tensor(*shape): return ms.Tensor(rng.standard_normal(shape).astype(np.float32))
mask = functions["attention_mask"](np.array(DOCUMENTS["short"], np.int32))
q, k, v = tensor(2, 200, 6, 64), tensor(2, 200, 2, 64), tensor(2, 200, 2, 64)
out, saved = functions["attention"](q, k, v, mask)
results = [out, *functions["attention_backward"](tensor(400, 384), out, q, k, v, mask, saved)]
x = tensor(400, 384)
results += functions["rms_norm_backward"](tensor(400, 384), x, tensor(400, 1), tensor(384))
for result in results:
    sys.stdout.buffer.write(result.asnumpy().tobytes())
"""


def test_results_do_not_depend_on_the_number_of_threads(native):
    """A run that is resumed with another number of threads computes the same bits."""
    found = []
    for threads in ("1", "3"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(Path(__file__).parent)}
        done = subprocess.run([sys.executable, "-c", BYTES], env=environment, capture_output=True, check=True)
        found.append(done.stdout)
    assert found[0] == found[1]
    assert len(found[0]) > 10**6
