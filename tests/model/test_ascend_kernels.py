"""The Ascend kernels equal the CPU kernels, forward and backward.

They can't run without a card, and the dry run (tests/ascend) computes nothing. So stand-ins replace the operators whose
arguments could be mixed up: a stand-in binds each call to the real operator's signature, and computes on the CPU what
the operator's documentation says.
"""

import inspect

import mindspore as ms
import numpy as np
import pytest
from ascend_stand_ins import stand_in
from mindspore import ops

from dscoder_exp.model.kernels import Kernels, ascend, cpu, kernels_for

BATCH, LENGTH, HEADS, KEY_HEADS, SIZE = 2, 12, 4, 2, 8
RNG = np.random.default_rng(0)
DOCUMENTS = np.array([[0] * 5 + [1] * 7, [0] * 8 + [-1] * 4], np.int32)  # -1: padding
# Bound of the relative error of fp32 sums in another order: 2^-24 for each term. Most terms are in a query's gradient:
# sums over all rows' keys twice (softmax, and the product itself), over head_dim three times (scores, dp, and delta).
ROUNDING = (2 * BATCH * LENGTH + 3 * SIZE) * 2.0**-24


def tensor(*shape):
    return ms.Tensor(RNG.standard_normal(shape).astype(np.float32))


def documents_and_rows(a):
    """From TND's cumulative lengths: each key's document number [1, N], and the row of each query among the keys.

    A document's last query is aligned with its last key (sparse_mode 3). Empty documents have no effect.
    """
    q_ends, kv_ends = a["actual_seq_qlen"], a["actual_seq_kvlen"]
    assert q_ends.dtype == kv_ends.dtype == ms.int64
    assert q_ends.shape == kv_ends.shape
    q_ends, kv_ends = q_ends.asnumpy(), kv_ends.asnumpy()
    assert (q_ends[-1], kv_ends[-1]) == (a["query"].shape[0], BATCH * LENGTH)
    documents = np.searchsorted(kv_ends, np.arange(BATCH * LENGTH), side="right").astype(np.int32)[None]
    counts = np.diff(q_ends, prepend=0)
    assert (counts <= np.diff(kv_ends, prepend=0)).all()
    rows = [np.arange(end - count, end) for end, count in zip(kv_ends, counts, strict=True)]
    return documents, ms.Tensor(np.concatenate(rows).astype(np.int32))


def scattered(x, rows):
    """x [M, heads, d] at these rows of zeros [1, N, heads, d]."""
    whole = np.zeros((BATCH * LENGTH, *x.shape[1:]), np.float32)
    whole[rows.asnumpy()] = x.asnumpy()
    return ms.Tensor(whole[None])


def check_options(options, mask):
    """Assert the options that FlashAttentionScore's documentation requires for TND with sparse_mode 3."""
    assert (options["input_layout"], options["sparse_mode"], options["next_tokens"]) == ("TND", 3, 0)
    assert options["pre_tokens"] == 2**31 - 1
    assert options["head_num"] == HEADS
    assert options["scale_value"] == SIZE**-0.5
    assert (mask.shape, mask.dtype) == ((2048, 2048), ms.uint8)
    assert mask[3, 3:6].asnumpy().tolist() == [0, 1, 1]


def flash(options, a):
    check_options(options, a["attn_mask"])
    documents, rows = documents_and_rows(a)
    mask, (k, v) = cpu.attention_mask(documents), (a[name].expand_dims(0) for name in ("key", "value"))
    out, (probabilities,) = cpu.attention(scattered(a["query"], rows), k, v, mask)
    out = out.reshape(-1, HEADS, SIZE)[rows]
    # The first two results are softmax_max and softmax_sum, which callers only pass on to flash_grad.
    return probabilities, tensor(1), None, out.reshape(a["query"].shape)


def flash_grad(options, a):
    check_options(options, a["atten_mask"])
    documents, rows = documents_and_rows(a)
    assert a["attention_in"].shape == a["dy"].shape == a["query"].shape
    mask, (k, v) = cpu.attention_mask(documents), (a[name].expand_dims(0) for name in ("key", "value"))
    dy, out = (scattered(a[name], rows).reshape(BATCH * LENGTH, -1) for name in ("dy", "attention_in"))
    q = scattered(a["query"], rows)
    dq, dk, dv = cpu.attention_backward(dy, out, q, k, v, mask, (a["softmax_max"],))
    return dq[0][rows], dk[0], dv[0], None


def swiglu(_, a):
    """silu is applied to the first half."""
    return cpu.swiglu(*ops.split(a["input"], a["input"].shape[-1] // 2, a["dim"]))


def swiglu_grad(_, a):
    gate, up = ops.split(a["input"], a["input"].shape[-1] // 2, a["dim"])
    return ops.concat(cpu.swiglu_backward(a["grad_output"], gate, up)[:2], a["dim"])


def rotary(_, a):
    """x, cos and sin have to have one dtype."""
    assert a["x"].dtype == a["cos"].dtype == a["sin"].dtype == ms.float32
    return cpu.rotate(a["x"], a["cos"], a["sin"])


@pytest.fixture
def on_ascend(monkeypatch):
    """The Ascend kernels, over the stand-ins."""
    monkeypatch.setattr(ascend, "FlashAttentionScore", stand_in("FlashAttentionScore", flash))
    monkeypatch.setattr(ascend, "FlashAttentionScoreGrad", stand_in("FlashAttentionScoreGrad", flash_grad))
    monkeypatch.setattr(ascend, "Swiglu", stand_in("Swiglu", swiglu))
    monkeypatch.setattr(ascend, "SwigluGrad", stand_in("SwigluGrad", swiglu_grad))
    monkeypatch.setattr(ascend, "RotaryPositionEmbedding", stand_in("RotaryPositionEmbedding", rotary))
    return kernels_for("ascend")


def flat(result):
    parts = result if isinstance(result, tuple) else (result,)
    return [array for part in parts for array in (flat(part) if isinstance(part, tuple) else [part.asnumpy()])]


def assert_same(result, expected):
    for mine, theirs in zip(flat(result), flat(expected), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=ROUNDING * np.abs(theirs).max())


def test_both_devices_have_the_same_signatures(on_ascend):
    assert on_ascend.num_masks == len(on_ascend.attention_mask(DOCUMENTS))
    for name in Kernels.__dataclass_fields__.keys() - {"num_masks"}:
        mine, theirs = (inspect.signature(getattr(table, name)) for table in (on_ascend, cpu))
        assert list(mine.parameters) == list(theirs.parameters), name


def test_swiglu(on_ascend):
    dy, gate, up = (tensor(6, 16) for _ in range(3))
    assert_same(on_ascend.swiglu(gate, up), cpu.swiglu(gate, up))
    assert_same(on_ascend.swiglu_backward(dy, gate, up), cpu.swiglu_backward(dy, gate, up))


def test_rotation_of_bf16_is_computed_in_fp32(on_ascend):
    x, cos, sin = tensor(BATCH, LENGTH, HEADS, SIZE), tensor(BATCH, LENGTH, 1, SIZE), tensor(BATCH, LENGTH, 1, SIZE)
    narrow = ops.cast(x, ms.bfloat16)
    rotated = on_ascend.rotate(narrow, cos, sin)
    assert rotated.dtype == ms.bfloat16
    exact = cpu.rotate(ops.cast(narrow, ms.float32), cos, sin)
    assert_same(ops.cast(rotated, ms.float32), ops.cast(ops.cast(exact, ms.bfloat16), ms.float32))


def test_attention_over_packed_documents(on_ascend):
    q, k, v = (tensor(BATCH, LENGTH, heads, SIZE) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    dout = tensor(BATCH * LENGTH, HEADS * SIZE)
    ends, mask = on_ascend.attention_mask(DOCUMENTS), cpu.attention_mask(DOCUMENTS)
    out, kept = on_ascend.attention(q, k, v, ends)
    expected, kept_there = cpu.attention(q, k, v, mask)
    assert_same(out, expected)
    gradients = on_ascend.attention_backward(dout, out, q, k, v, ends, kept)
    assert_same(gradients, cpu.attention_backward(dout, expected, q, k, v, mask, kept_there))


@pytest.mark.parametrize("ranks", [2, 3])
def test_attention_of_context_ranks(on_ascend, ranks):
    """Each rank has its positions' queries and all keys: outputs are concatenated, gradients of k and v are summed."""
    q, k, v = (tensor(BATCH, LENGTH, heads, SIZE) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    dout = tensor(BATCH, LENGTH, HEADS, SIZE)
    mask = cpu.attention_mask(DOCUMENTS)
    expected, kept = cpu.attention(q, k, v, mask)
    gradients = cpu.attention_backward(dout.reshape(BATCH * LENGTH, -1), expected, q, k, v, mask, kept)
    outs, dqs, sums = [], [], [0, 0]
    for rank in range(ranks):
        own, ends = (
            slice(rank * LENGTH // ranks, (rank + 1) * LENGTH // ranks),
            on_ascend.attention_mask(DOCUMENTS, rank, ranks),
        )
        out, kept_here = on_ascend.attention(q[:, own], k, v, ends)
        dq, dk, dv = on_ascend.attention_backward(
            dout[:, own].reshape(out.shape), out, q[:, own], k, v, ends, kept_here
        )
        outs.append(out.reshape(BATCH, LENGTH // ranks, -1))
        dqs.append(dq)
        sums = [sums[0] + dk, sums[1] + dv]
    assert_same(ops.concat(outs, 1).reshape(expected.shape), expected)
    assert_same((ops.concat(dqs, 1), *sums), gradients)


def in_documents(count):
    """[2, 256] divided into `count` documents, the last one padding."""
    firsts = np.linspace(0, 512, count, endpoint=False).astype(int)
    numbers = np.repeat(np.arange(count), np.diff(firsts, append=512))
    return np.where(numbers == count - 1, -1, numbers).astype(np.int32).reshape(2, 256)


def test_number_of_ends_depends_on_the_batchs_shape_only(on_ascend):
    """Unless the batch has more than one document per 64 positions and row: then it is the operator's maximum."""
    shapes = [on_ascend.attention_mask(in_documents(count))[0].shape for count in (2, 6, 10, 12, 512)]
    assert shapes == [(10,), (10,), (10,), (2048,), (2048,)]
    most = np.arange(2048, dtype=np.int32)[None]
    assert on_ascend.attention_mask(most)[0].shape == (2048,)


def test_ends_are_padded_with_empty_documents(on_ascend):
    for ends, last in zip(on_ascend.attention_mask(in_documents(4), 1, 2), (256, 512), strict=True):
        assert (np.diff(ends.asnumpy()) >= 0).all()
        assert ends.asnumpy()[-1] == last
