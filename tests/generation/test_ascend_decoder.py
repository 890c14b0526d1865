"""Decoding on Ascend gives the logits of whole sequences, whatever the slots and the chunks.

The operators can't run without a card, and the dry run (tests/ascend) computes nothing. So stand-ins replace them, and
what would be compiled runs operator by operator on the CPU, in fp32.
"""

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from ascend_stand_ins import stand_in
from mindspore import ops

from dscoder_exp import load
from dscoder_exp.generation import ascend_decoder
from dscoder_exp.generation.engine import Engine
from dscoder_exp.llm import LLM
from dscoder_exp.model import compiled
from dscoder_exp.model.build import build
from dscoder_exp.model.kernels import ascend, ascend_decoding, cpu
from dscoder_exp.model.rotary import rotary_tables
from dscoder_exp.schema.llama import Lora
from dscoder_exp.weights.lora.adapter import Factors
from dscoder_exp.weights.random_init import random_factors
from dscoder_exp.weights.resolve import OpenedModel
from dscoder_exp.weights.source import open_weights

REFERENCE = Path(__file__).parents[1] / "reference" / "tiny_gqa"
CHUNK = 16
LONGEST = 4 * CHUNK  # length of all sequences on the CPU, so that one shape is compiled
CLOSE = {"rtol": 0, "atol": 2e-4}  # logits of about 1; sums in another order
RNG = np.random.default_rng(0)


def heads_of(x, count):
    """[B, S, count d] -> [B, count, S, d]."""
    batch, length, width = x.shape
    return x.asnumpy().reshape(batch, length, count, width // count).transpose(0, 2, 1, 3)


def attention(options, a, key, value, masked):
    """masked: [B, queries, keys], True where a query doesn't attend."""
    assert options["input_layout"] == "BSH"
    q, k, v = (
        heads_of(a["query"], options["num_heads"]),
        *(heads_of(x, options["num_key_value_heads"]) for x in (key, value)),
    )
    k, v = (np.repeat(x, q.shape[1] // x.shape[1], 1) for x in (k, v))
    assert options["scale_value"] == q.shape[3] ** -0.5
    scores = np.where(masked[:, None], -np.inf, q @ k.transpose(0, 1, 3, 2) * options["scale_value"])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out = weights / weights.sum(-1, keepdims=True) @ v
    return out.transpose(0, 2, 1, 3).reshape(a["query"].shape)


def attention_step(options, a):
    (key,), (value,) = a["key"], a["value"]
    assert (options["block_size"], a["block_table"], a["actual_seq_lengths"]) == (0, None, None)
    assert a["attn_mask"].dtype == ms.bool_
    assert a["attn_mask"].shape == (key.shape[0], 1, key.shape[1])
    return ms.Tensor(attention(options, a, key, value, a["attn_mask"].asnumpy()))


def attention_chunk(options, a):
    """sparse_mode 3: the last query attends to the last key; queries after actual_seq_lengths aren't computed."""
    assert (options["sparse_mode"], a["attn_mask"].shape, a["attn_mask"].dtype) == (3, (2048, 2048), ms.uint8)
    assert a["actual_seq_lengths"].dtype == a["actual_seq_lengths_kv"].dtype == ms.int64
    queries, keys = (int(a[name].asnumpy()[0]) for name in ("actual_seq_lengths", "actual_seq_lengths_kv"))
    rows, columns = np.arange(a["query"].shape[1])[:, None], np.arange(a["key"].shape[1])
    out = attention(options, a, a["key"], a["value"], (columns > rows + keys - queries)[None])
    out[:, queries:] = np.nan
    return ms.Tensor(out)


def add_rms_norm(_, a):
    total = a["x1"] + a["x2"]
    y, rstd = cpu.rms_norm(total, a["gamma"], a["epsilon"])
    return y, rstd, total


def index_copy(_, a):
    assert a["dim"] == 0
    assert a["input"].dtype == a["tensor"].dtype
    a["input"].asnumpy()[a["index"].asnumpy()] = a["tensor"].asnumpy()
    return a["input"]


def rotary(_, a):
    assert a["x"].dtype == a["cos"].dtype == a["sin"].dtype
    assert a["x"].shape == a["cos"].shape == a["sin"].shape
    assert a["mode"] == 0
    return cpu.rotate(a["x"], a["cos"], a["sin"])


def split(_, a):
    ends = np.cumsum(a["split_size"])
    assert a["dim"] == -1
    return tuple(ms.Tensor(np.ascontiguousarray(x)) for x in np.split(a["input"].asnumpy(), ends, -1)[:-1])


STAND_INS = {
    "AddRmsNorm": add_rms_norm,
    "ArgMaxExt": lambda _, a: ms.Tensor(a["input"].asnumpy().argmax(a["dim"])),
    "IncreFlashAttention": attention_step,
    "InplaceIndexCopy": index_copy,
    "PromptFlashAttention": attention_chunk,
    "RotaryPositionEmbedding": rotary,
    "SplitWithSize": split,
    "Swiglu": lambda _, a: cpu.swiglu(*ops.split(a["input"], a["input"].shape[-1] // 2, a["dim"])),
}


class Eager(compiled.CompiledFunction):
    """Calls the function instead of compiling it."""

    def __init__(self, function, name, announce, *, waits):
        self._function = function

    def __call__(self, *arguments):
        return self._function(*arguments)


@pytest.fixture(scope="module")
def whole():
    """whole(ids) -> logits [T, V] of the sequence without a cache, by the CPU's functions."""
    llm = load(str(REFERENCE))
    return lambda ids: llm.logits([[*ids, *[0] * (LONGEST - len(ids))]])[0, : len(ids)]


@pytest.fixture
def engine_of(monkeypatch):
    """engine_of(SLOTS, frozen=True, factors=None) -> an engine over the Ascend functions."""
    for name, compute in STAND_INS.items():
        monkeypatch.setattr(ascend_decoding, name, stand_in(name, compute))
    monkeypatch.setattr(ascend, "embedding", lambda ids, table: cpu.take_rows(table, ids))
    monkeypatch.setattr(compiled, "CompiledFunction", Eager)
    monkeypatch.setattr(ascend_decoder.AscendDecoder, "chunk", CHUNK)
    source = open_weights(str(REFERENCE))

    def engine(slots, *, frozen=True, factors=None):
        given = {"seed": 0, "device": "ascend", "precision": "fp32", "frozen": frozen, "factors": factors}
        return Engine(build(source.config, source, **given), slots)

    return engine


def ids_of(length):
    return RNG.integers(0, 128, length).astype(np.int32)


def numbers(*values):
    return np.array(values, np.int32)


@pytest.mark.parametrize("frozen", [True, False], ids=["merged", "separate"])
def test_logits_equal_those_of_whole_sequences(engine_of, whole, frozen):
    """Prompts of less than a chunk, of several, and of one token; then steps of slots in any order and number."""
    engine, prompts = engine_of(3, frozen=frozen), [ids_of(length).tolist() for length in (5, 2 * CHUNK + 3, 1)]
    for slot, prompt in enumerate(prompts):
        np.testing.assert_allclose(engine.prefill(slot, np.array(prompt, np.int32)), whole(prompt)[-1], **CLOSE)
    for slots in ([2, 0], [0, 1, 2], [1], [2, 1, 0]):
        tokens, positions = ids_of(len(slots)), numbers(*(len(prompts[slot]) for slot in slots))
        logits = engine.decode(np.array(slots, np.int32), tokens, positions)
        for slot, token, found in zip(slots, tokens.tolist(), logits, strict=True):
            prompts[slot].append(token)
            np.testing.assert_allclose(found, whole(prompts[slot])[-1], **CLOSE)


def test_lora_factors_count(engine_of):
    source, lora = open_weights(str(REFERENCE)), Lora(4, 8.0, 0.0, ("q_proj", "up_proj", "down_proj"))
    shapes = {name: array.shape for name, array in random_factors(source.config, lora, 3)}
    factors = Factors(lora, {name: RNG.standard_normal(shape, np.float32) / 8 for name, shape in shapes.items()})
    prompt = ids_of(CHUNK + 5)
    model = build(source.config, source, seed=0, device="cpu", precision="fp32", factors=factors)
    expected = LLM(model, OpenedModel(source.config, source, None)).logits([[*prompt.tolist(), 7]])[0]
    engine = engine_of(1, frozen=False, factors=factors)
    np.testing.assert_allclose(engine.prefill(0, prompt), expected[-2], **CLOSE)
    logits = engine.decode(numbers(0), numbers(7), numbers(len(prompt)))
    np.testing.assert_allclose(logits[0], expected[-1], **CLOSE)


def test_a_copied_beginning_goes_on_in_two_slots(engine_of, whole):
    engine, prompt, other = engine_of(2), ids_of(CHUNK + 4), ids_of(7)
    engine.prefill(0, prompt)
    engine.copy(0, 1, CHUNK)
    ids = np.concatenate([prompt[:CHUNK], other])
    np.testing.assert_allclose(engine.prefill(1, other, CHUNK), whole(ids.tolist())[-1], **CLOSE)
    logits = engine.decode(numbers(0), numbers(9), numbers(len(prompt)))
    np.testing.assert_allclose(logits[0], whole([*prompt.tolist(), 9])[-1], **CLOSE)


def test_what_is_cached_stays_when_there_is_more_room(engine_of, whole):
    engine, prompts = engine_of(2), [ids_of(6), ids_of(9)]
    for slot, prompt in enumerate(prompts):
        engine.prefill(slot, prompt)
    engine.reserve(700)
    logits = engine.decode(numbers(0, 1), numbers(3, 4), numbers(6, 9))
    for prompt, token, found in zip(prompts, (3, 4), logits, strict=True):
        np.testing.assert_allclose(found, whole([*prompt.tolist(), token])[-1], **CLOSE)


def test_greedy_steps_copy_only_what_the_host_has_changed(engine_of, whole, monkeypatch):
    engine, prompts, sizes = engine_of(2), [ids_of(6).tolist(), ids_of(9).tolist()], []
    for slot, prompt in enumerate(prompts):
        engine.prefill(slot, np.array(prompt, np.int32))
    put_all = ascend_decoder.put_all
    monkeypatch.setattr(ascend_decoder, "put_all", lambda *arrays: sizes.append(len(arrays)) or put_all(*arrays))

    def step(slots, tokens):
        positions = numbers(*(len(prompts[slot]) for slot in slots))
        found = engine.decode_greedy(np.array(slots, np.int32), tokens, positions)
        for slot, token, likely in zip(slots, tokens.tolist(), found.tolist(), strict=True):
            prompts[slot].append(token)
            assert likely == whole(prompts[slot])[-1].argmax()
        return found

    tokens = step([0, 1], numbers(5, 6))
    assert sizes == [4]  # ids, positions, and which slots are in use
    for _ in range(3):
        tokens = step([0, 1], tokens)
    assert sizes == [4]
    tokens = step([0, 1], (tokens + 1) % 128)
    assert sizes == [4, 1]  # ids that the device didn't choose
    tokens = step([1], tokens[1:])
    assert sizes == [4, 1, 3]  # one slot is no longer in use
    step([1], tokens)
    assert sizes == [4, 1, 3]


def rounded(x):
    return ms.Tensor(x.astype(np.float32)).astype(ms.bfloat16).astype(ms.float32).asnumpy()


def test_rotation_with_bf16_tables_errs_less_than_transformers():
    """transformers' apply_rotary_pos_emb has bf16 tables, too, and rounds both products and their sum."""
    config = open_weights(str(REFERENCE)).config
    cos, sin = rotary_tables(config, np.arange(512))
    x = rounded(RNG.standard_normal(cos.shape))
    turned = np.concatenate(np.split(x, 2, -1)[::-1], -1) * np.repeat([-1, 1], cos.shape[1] // 2)
    exact = x * cos + turned * sin
    narrow_cos, narrow_sin = rounded(cos), rounded(sin)
    ours = rounded(x * narrow_cos + turned * narrow_sin)
    theirs = rounded(rounded(x * narrow_cos) + rounded(turned * narrow_sin))
    errors = [np.sqrt(np.mean((found - exact) ** 2)) for found in (ours, theirs)]
    assert errors[0] < 0.9 * errors[1]
