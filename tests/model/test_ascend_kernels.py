"""The Ascend column can't run here. Its operators are replaced by stand-ins that bind each call to the real operator's
signature and compute what its documentation says; then the column must equal the CPU's, forward and backward."""

import inspect

import mindspore as ms
import numpy as np
import pytest
from mindspore import ops
from mindspore.ops import auto_generate

from dscoder_exp.model.kernels import Kernels, ascend, cpu, kernels_for

BATCH, LENGTH, HEADS, KEY_HEADS, SIZE = 2, 12, 4, 2, 8
RNG = np.random.default_rng(0)
# Of fp32's 24 bits. The longest way is a query's gradient's: sums over all rows' keys, twice (softmax, and the product
# itself), and over a head's numbers three times (scores, dp, and what is taken off it), each in an order of its own.
ROUNDING = (2 * BATCH * LENGTH + 3 * SIZE) * 2.0**-24


def tensor(*shape):
    return ms.Tensor(RNG.standard_normal(shape).astype(np.float32))


def stand_in(name, compute):
    """A class with the operator's constructor and call signatures; `compute(options, arguments)`."""
    real = getattr(auto_generate, name)

    class StandIn:
        def __init__(self, *args, **kwargs):
            bound = inspect.signature(real.__init__).bind(self, *args, **kwargs)
            bound.apply_defaults()
            self.options = bound.arguments

        def __call__(self, *args):
            bound = inspect.signature(real.__call__).bind(self, *args)
            bound.apply_defaults()
            return compute(self.options, bound.arguments)

    return StandIn


def places_of(a):
    """TND's cumulative lengths back as documents of the keys [1, N], and where among them each query lies.

    A document's last query sees its last key, the one before one fewer. Documents of no length change nothing.
    """
    q_ends, kv_ends = a["actual_seq_qlen"], a["actual_seq_kvlen"]
    assert q_ends.dtype == kv_ends.dtype == ms.int64
    assert q_ends.shape == kv_ends.shape == (ascend.COUNT,)
    q_ends, kv_ends = q_ends.asnumpy(), kv_ends.asnumpy()
    assert (q_ends[-1], kv_ends[-1]) == (a["query"].shape[0], BATCH * LENGTH)
    documents = np.searchsorted(kv_ends, np.arange(BATCH * LENGTH), side="right").astype(np.int32)[None]
    counts = np.diff(q_ends, prepend=0)
    places = [np.arange(end - count, end) for end, count in zip(kv_ends, counts, strict=True)]
    return documents, ms.Tensor(np.concatenate(places).astype(np.int32))


def spread(x, places):
    """Rows of queries where their keys lie, [1, N, heads, d]."""
    rows = np.zeros((BATCH * LENGTH, *x.shape[1:]), np.float32)
    rows[places.asnumpy()] = x.asnumpy()
    return ms.Tensor(rows[None])


def checked(options, mask):
    """What the mode needs: FlashAttentionScore's documentation on TND."""
    assert (options["input_layout"], options["sparse_mode"], options["next_tokens"]) == ("TND", 3, 0)
    assert options["pre_tokens"] >= LENGTH
    assert options["head_num"] == HEADS
    assert options["scale_value"] == SIZE**-0.5
    assert (mask.shape, mask.dtype) == ((2048, 2048), ms.uint8)
    assert mask[3, 3:6].asnumpy().tolist() == [0, 1, 1]


def flash(options, a):
    checked(options, a["attn_mask"])
    documents, places = places_of(a)
    mask, (k, v) = cpu.attention_mask(documents, HEADS), (a[name].expand_dims(0) for name in ("key", "value"))
    out, (probabilities,) = cpu.attention(spread(a["query"], places), k, v, mask)
    out = out.reshape(-1, HEADS, SIZE)[places]
    return probabilities, tensor(1), None, out.reshape(a["query"].shape)  # the first two are only handed on


def flash_grad(options, a):
    checked(options, a["atten_mask"])
    documents, places = places_of(a)
    assert a["attention_in"].shape == a["dy"].shape == a["query"].shape
    mask, (k, v) = cpu.attention_mask(documents, HEADS), (a[name].expand_dims(0) for name in ("key", "value"))
    dy, out = (spread(a[name], places).reshape(BATCH * LENGTH, -1) for name in ("dy", "attention_in"))
    q = spread(a["query"], places)
    dq, dk, dv = cpu.attention_backward(dy, out, q, k, v, mask, (a["softmax_max"],))
    return dq[0][places], dk[0], dv[0], None


@pytest.fixture
def column(monkeypatch):
    """The Ascend column on stand-ins."""
    monkeypatch.setattr(ascend, "FlashAttentionScore", stand_in("FlashAttentionScore", flash))
    monkeypatch.setattr(ascend, "FlashAttentionScoreGrad", stand_in("FlashAttentionScoreGrad", flash_grad))
    grad = stand_in("RmsNormGrad", lambda _, a: cpu.rms_norm_backward(a["dy"], a["x"], a["rstd"], a["gamma"]))
    monkeypatch.setattr(ascend, "RmsNormGrad", grad)
    rotary = stand_in("RotaryPositionEmbedding", lambda _, a: cpu.rotate(a["x"], a["cos"], a["sin"]))
    monkeypatch.setattr(ascend, "RotaryPositionEmbedding", rotary)
    signature = inspect.signature(ops.rms_norm)

    def rms_norm(*args):
        return cpu.rms_norm(*signature.bind(*args).args)

    monkeypatch.setattr(ops, "rms_norm", rms_norm)
    return kernels_for("ascend")


def flat(result):
    parts = result if isinstance(result, tuple) else (result,)
    return [array for part in parts for array in (flat(part) if isinstance(part, tuple) else [part.asnumpy()])]


def assert_same(result, expected):
    for mine, theirs in zip(flat(result), flat(expected), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=ROUNDING * np.abs(theirs).max())


def test_columns_have_the_same_functions(column):
    for name in Kernels.__dataclass_fields__:
        mine, theirs = (inspect.signature(getattr(table, name)) for table in (column, cpu))
        assert list(mine.parameters) == list(theirs.parameters), name


def test_rms_norm(column):
    x, weight, dy = tensor(6, 16), tensor(16), tensor(6, 16)
    y, rstd = column.rms_norm(x, weight, 1e-6)
    assert_same((y, rstd), cpu.rms_norm(x, weight, 1e-6))
    assert_same(column.rms_norm_backward(dy, x, rstd, weight), cpu.rms_norm_backward(dy, x, rstd, weight))


def test_rotate(column):
    x, cos, sin = tensor(BATCH, LENGTH, HEADS, SIZE), tensor(BATCH, LENGTH, 1, SIZE), tensor(BATCH, LENGTH, 1, SIZE)
    assert_same(column.rotate(x, cos, sin), cpu.rotate(x, cos, sin))


def test_attention_over_packed_documents(column):
    q, k, v = (tensor(BATCH, LENGTH, heads, SIZE) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    documents = np.array([[0] * 5 + [1] * 7, [0] * 8 + [-1] * 4], np.int32)
    dout = tensor(BATCH * LENGTH, HEADS * SIZE)
    ends, mask = column.attention_mask(documents, HEADS), cpu.attention_mask(documents, HEADS)
    out, kept = column.attention(q, k, v, ends)
    expected, kept_there = cpu.attention(q, k, v, mask)
    assert_same(out, expected)
    gradients = column.attention_backward(dout, out, q, k, v, ends, kept)
    assert_same(gradients, cpu.attention_backward(dout, expected, q, k, v, mask, kept_there))


@pytest.mark.parametrize("ranks", [2, 3])
def test_attention_of_context_ranks(column, ranks):
    """Each has its positions' queries and the keys of all; outputs follow one another, gradients of keys add up."""
    q, k, v = (tensor(BATCH, LENGTH, heads, SIZE) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    documents = np.array([[0] * 5 + [1] * 7, [0] * 8 + [-1] * 4], np.int32)
    dout = tensor(BATCH, LENGTH, HEADS, SIZE)
    mask = cpu.attention_mask(documents, HEADS)
    expected, kept = cpu.attention(q, k, v, mask)
    gradients = cpu.attention_backward(dout.reshape(BATCH * LENGTH, -1), expected, q, k, v, mask, kept)
    outs, dqs, sums = [], [], [0, 0]
    for rank in range(ranks):
        own, ends = (
            slice(rank * LENGTH // ranks, (rank + 1) * LENGTH // ranks),
            column.attention_mask(documents, HEADS, rank, ranks),
        )
        out, kept_here = column.attention(q[:, own], k, v, ends)
        dq, dk, dv = column.attention_backward(dout[:, own].reshape(out.shape), out, q[:, own], k, v, ends, kept_here)
        outs.append(out.reshape(BATCH, LENGTH // ranks, -1))
        dqs.append(dq)
        sums = [sums[0] + dk, sums[1] + dv]
    assert_same(ops.concat(outs, 1).reshape(expected.shape), expected)
    assert_same((ops.concat(dqs, 1), *sums), gradients)
