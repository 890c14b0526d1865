"""The Ascend column of the kernel table: fused operators. Compiled for a card (tests/ascend), never computed on one."""

import hashlib

import mindspore as ms
import numpy as np
from mindspore import mint, ops
from mindspore.mint.nn.functional import embedding
from mindspore.ops.auto_generate import (
    DropoutDoMaskExt,
    DropoutGenMaskExt,
    FlashAttentionScore,
    FlashAttentionScoreGrad,
    InplaceIndexAddExt,
    RmsNormGrad,
    RotaryPositionEmbedding,
    SplitWithSize,
    Swiglu,
    SwigluGrad,
)

from dscoder_exp.model.kernels.cpu import (  # nothing fused to call here
    adapted,
    adapted_dx,
    cached_attention,
    linear,
    linear_dweight,
    linear_dx,
)
from dscoder_exp.schema.config import MAX_DOCUMENTS

__all__ = [
    "adapted",
    "adapted_dx",
    "add_at",
    "add_rows",
    "attention",
    "attention_backward",
    "attention_mask",
    "cached_attention",
    "drop",
    "dropout_mask",
    "linear",
    "linear_dweight",
    "linear_dx",
    "masks",
    "rms_norm",
    "rms_norm_backward",
    "rotate",
    "swiglu",
    "swiglu_backward",
    "take_rows",
]

LAYOUT = "TND"  # [B * T, heads, d]; documents by their ends
RIGHT_DOWN = 3  # sparse_mode: a document's last query here sees its last key here, the one before one fewer, …
ALL_BEFORE = 2**31 - 1  # pre_tokens: how far a query sees back
CAUSAL = ms.Tensor(np.triu(np.ones((2048, 2048), np.uint8), 1))  # the one mask that this mode takes; 1: doesn't count
USUAL = 64  # positions a document is long, at least on average: so few documents are filled up to one number
masks = 2

_add_to_rows = InplaceIndexAddExt()


def rms_norm(x, weight, eps):
    return ops.rms_norm(x, ops.cast(weight, x.dtype), eps)


def rms_norm_backward(dy, x, rstd, weight):
    dx, dweight = RmsNormGrad()(dy, x, rstd, ops.cast(weight, x.dtype))
    return dx, ops.cast(dweight, ms.float32)


def rotate(x, cos, sin):
    """In fp32: the operator takes tables of x's dtype, and theirs would be a second rounding (tests/model, bf16)."""
    return ops.cast(RotaryPositionEmbedding()(ops.cast(x, ms.float32), cos, sin, 0), x.dtype)


def attention_mask(documents, rank=0, ranks=1):
    """Two int64 [D]: where each document of the batch ends, among this rank's queries and among the keys of all, both
    counted through all rows. Padding is one more document, and so are keys after a row's last query here; a document
    whose queries are all on other ranks has none here.

    They stay on the host, where the operator reads them; documents of no length at the end fill the number up, so that
    a batch's shape tells it, and other documents compile nothing anew.

    Raises:
        ValueError: there are more documents than the operator takes.
    """
    length = documents.shape[1]
    own, first = length // ranks, rank * (length // ranks)
    changes = np.ones(documents.shape, bool)
    changes[:, :-1] = documents[:, 1:] != documents[:, :-1]
    changes[:, first + own - 1] = True  # so that a document's last query here sees its last key here (RIGHT_DOWN)
    rows, columns = np.nonzero(changes)
    if len(rows) > MAX_DOCUMENTS:  # of training's batches it is known before (data/loader.py)
        raise ValueError(f"{len(rows)} documents in a batch, and attention on Ascend takes {MAX_DOCUMENTS}")
    queries = rows * own + np.clip(columns + 1 - first, 0, own)
    count = min(documents.size // USUAL + len(documents), MAX_DOCUMENTS)
    room = (count if len(rows) <= count else MAX_DOCUMENTS) - len(rows)
    return tuple(
        ms.Tensor.from_numpy(np.pad(ends, (0, room), mode="edge").astype(np.int64))
        for ends in (queries, rows * length + columns + 1)
    )


def _flat(x):
    return x.reshape(-1, x.shape[2], x.shape[3])


def attention(q, k, v, mask):
    batch, length, heads, size = q.shape
    kernel = FlashAttentionScore(
        head_num=heads,
        scale_value=size**-0.5,
        pre_tokens=ALL_BEFORE,
        next_tokens=0,
        input_layout=LAYOUT,
        sparse_mode=RIGHT_DOWN,
    )
    softmax_max, softmax_sum, _, out = kernel(
        _flat(q), _flat(k), _flat(v), None, None, None, CAUSAL, None, mask[0], mask[1]
    )
    return out.reshape(batch * length, heads * size), (softmax_max, softmax_sum)


def attention_backward(dout, out, q, k, v, mask, saved):
    _, _, heads, size = q.shape
    softmax_max, softmax_sum = saved
    kernel = FlashAttentionScoreGrad(
        head_num=heads,
        scale_value=size**-0.5,
        pre_tokens=ALL_BEFORE,
        next_tokens=0,
        input_layout=LAYOUT,
        sparse_mode=RIGHT_DOWN,
    )
    out, dout = out.reshape(-1, heads, size), dout.reshape(-1, heads, size)
    q_k_v = _flat(q), _flat(k), _flat(v)
    dq, dk, dv, _ = kernel(
        *q_k_v, dout, None, None, None, CAUSAL, softmax_max, softmax_sum, None, out, None, mask[0], mask[1]
    )
    return dq.reshape(q.shape), dk.reshape(k.shape), dv.reshape(v.shape)


def swiglu(gate, up):
    return Swiglu()(ops.concat((gate, up), -1), -1)


def swiglu_backward(dy, gate, up):
    """The operator computes in fp32 inside, where a derivative of bf16 operators would be three times less exact."""
    both = ops.concat((gate, up), -1)
    width = gate.shape[-1]
    dgate, dup = SplitWithSize()(SwigluGrad()(dy, both, -1), (width, width), -1)
    return dgate, dup, Swiglu()(both, -1)


def dropout_mask(rows, width, columns, rate, key):
    """A bit each, made on the device. Ranks that share the columns don't drop what one rank would."""
    own = len(range(width)[columns])
    words = (*key, columns.start or 0)
    digest = hashlib.blake2b(np.array(words, np.int64).tobytes(), digest_size=8).digest()
    seed = int.from_bytes(digest, "little") >> 1  # the operator takes no negative one
    seed, offset = (ms.Tensor([number], ms.int64) for number in (seed, 0))  # read on the host
    return DropoutGenMaskExt()((rows, own), rate, seed, offset, ms.bfloat16)


def drop(x, mask, rate):
    return DropoutDoMaskExt()(x, mask, rate)


def take_rows(table, ids):
    return embedding(ids, table)


def add_rows(table, ids, x):
    _add_to_rows(table, 0, ids, x, 1)


def add_at(x, columns, values):
    return mint.scatter_add(x, 1, columns.reshape(-1, 1), values.reshape(-1, 1))
