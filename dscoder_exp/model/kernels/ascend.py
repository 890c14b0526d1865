"""The Ascend functions of the kernel table: fused operators. Compiled for a card (tests/ascend), never run on one."""

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

from dscoder_exp.model.kernels.cpu import (  # no fused operator replaces these
    add,
    add_linear_dweight,
    join_heads,
    linear,
    linear_dweight,
    linear_dx,
    lora_linear,
    lora_linear_dx,
    narrow,
    softmax_gradient_by,
    split_heads,
    widen,
)
from dscoder_exp.schema.config import MAX_DOCUMENTS

__all__ = [
    "add",
    "add_at",
    "add_linear_dweight",
    "add_rows",
    "attention",
    "attention_backward",
    "attention_mask",
    "dropout",
    "dropout_mask",
    "join_heads",
    "linear",
    "linear_dweight",
    "linear_dx",
    "lora_linear",
    "lora_linear_dx",
    "narrow",
    "num_masks",
    "rms_norm",
    "rms_norm_backward",
    "rotate",
    "softmax_gradient",
    "split_heads",
    "swiglu",
    "swiglu_backward",
    "take_rows",
    "widen",
]

LAYOUT = "TND"  # [B * T, heads, d], with the end of each document
# sparse_mode: causal mask aligned to the end of each document, so that its last query here attends to all its keys, the
# query before it to all but the last key, and so on.
RIGHT_DOWN_CAUSAL = 3
ALL_BEFORE = 2**31 - 1  # pre_tokens: number of earlier keys that a query attends to
CAUSAL = ms.Tensor(np.triu(np.ones((2048, 2048), np.uint8), 1))  # the only mask that this mode takes; 1: masked
# attention_mask pads its arrays to one document per 64 positions and row. A batch of shorter documents than that on
# average gets MAX_DOCUMENTS entries instead, a second shape to compile.
POSITIONS_PER_DOCUMENT = 64
num_masks = 2

_add_to_rows = InplaceIndexAddExt()


def rms_norm(x, weight, eps):
    return ops.rms_norm(x, ops.cast(weight, x.dtype), eps)


def rms_norm_backward(dy, x, rstd, weight):
    dx, dweight = RmsNormGrad()(dy, x, rstd, ops.cast(weight, x.dtype))
    return dx, ops.cast(dweight, ms.float32)


def rotate(x, cos, sin):
    """Computed in fp32: the operator wants cos and sin in x's dtype, and bf16 tables would add a rounding error
    (tests/model/test_bf16_rounding.py).
    """
    return ops.cast(RotaryPositionEmbedding()(ops.cast(x, ms.float32), cos, sin, 0), x.dtype)


def attention_mask(documents, rank=0, ranks=1):
    """Two int64 [D]: the end of each document among this context rank's queries, and among all keys, both numbered
    through the batch's rows. Padding counts as a document, and so do the keys after this rank's last query of a row. A
    document whose queries are all on other ranks has no queries here.

    The arrays stay on the host, where the operator reads them. They are padded with empty documents, so that D depends
    on the batch's shape only, and a batch with other documents doesn't compile again.

    Raises:
        ValueError: the batch has more documents than the operator takes.
    """
    length = documents.shape[1]
    own, first = length // ranks, rank * (length // ranks)
    changes = np.ones(documents.shape, bool)
    changes[:, :-1] = documents[:, 1:] != documents[:, :-1]
    changes[:, first + own - 1] = True  # a document's last query here has to see its last key (RIGHT_DOWN_CAUSAL)
    rows, columns = np.nonzero(changes)
    if len(rows) > MAX_DOCUMENTS:  # data/loader.py checks training's batches beforehand
        raise ValueError(f"a batch has {len(rows)} documents; attention on Ascend takes at most {MAX_DOCUMENTS}")
    queries = rows * own + np.clip(columns + 1 - first, 0, own)
    count = min(documents.size // POSITIONS_PER_DOCUMENT + len(documents), MAX_DOCUMENTS)
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
        sparse_mode=RIGHT_DOWN_CAUSAL,
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
        sparse_mode=RIGHT_DOWN_CAUSAL,
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
    """One operator, fp32 inside. Composed of bf16 operators, the derivative's error is three times as large."""
    both = ops.concat((gate, up), -1)
    width = gate.shape[-1]
    dgate, dup = SplitWithSize()(SwigluGrad()(dy, both, -1), (width, width), -1)
    return dgate, dup, Swiglu()(both, -1)


def dropout_mask(rows, width, columns, rate, key):
    """One bit per element, drawn on the device. Ranks that split the columns draw other values than one rank would."""
    own = len(range(width)[columns])
    words = (*key, columns.start or 0)
    digest = hashlib.blake2b(np.array(words, np.int64).tobytes(), digest_size=8).digest()
    seed = int.from_bytes(digest, "little") >> 1  # the operator takes no negative seed
    seed, offset = (ms.Tensor([number], ms.int64) for number in (seed, 0))  # the operator reads them on the host
    return DropoutGenMaskExt()((rows, own), rate, seed, offset, ms.bfloat16)


def dropout(x, mask, rate):
    return DropoutDoMaskExt()(x, mask, rate)


def take_rows(table, ids):
    return embedding(ids, table)


def add_rows(table, ids, x):
    _add_to_rows(table, 0, ids, x, 1)


def add_at(x, columns, values):
    return mint.scatter_add(x, 1, columns.reshape(-1, 1), values.reshape(-1, 1))


softmax_gradient = softmax_gradient_by(add_at)
