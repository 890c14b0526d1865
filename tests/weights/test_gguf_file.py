"""GGUF files: small ones written by the tests, and SmolLM2's."""

import json
import math

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from weights_support import SMOLLM2, TINY, refusal

from dscoder_exp.schema.errors import Refused
from dscoder_exp.schema.llama import RopeScaling
from dscoder_exp.weights.check import check
from dscoder_exp.weights.names import parameter_shapes
from dscoder_exp.weights.random_init import random_weights
from dscoder_exp.weights.source import open_weights

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.": "blk.",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

METADATA = {
    "add_block_count": TINY.num_hidden_layers,
    "add_context_length": TINY.max_position_embeddings,
    "add_feed_forward_length": TINY.intermediate_size,
    "add_head_count": TINY.num_attention_heads,
    "add_head_count_kv": TINY.num_key_value_heads,
    "add_layer_norm_rms_eps": TINY.rms_norm_eps,
    "add_rope_freq_base": TINY.rope_theta,
    "add_bos_token_id": TINY.bos_token_id,
    "add_eos_token_id": TINY.eos_token_id,
}


def interleaved(matrix: np.ndarray, heads: int) -> np.ndarray:
    """A query or key matrix with its rows in llama.cpp's order, by a plain loop."""
    dim = matrix.shape[0] // heads
    order = [
        head * dim + half * dim // 2 + pair for head in range(heads) for pair in range(dim // 2) for half in (0, 1)
    ]
    return matrix[order]


def write_gguf(path, quantisation=GGMLQuantizationType.F32, arch="llama", weights=None, per_part=0, **metadata):
    """Write a GGUF file of TINY; return the tensors that should be read back.

    per_part: tensors of a part, if the file is split.
    """
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=per_part)
    writer.add_embedding_length(TINY.hidden_size)
    for key, value in (METADATA | metadata).items():
        getattr(writer, key)(*(value if isinstance(value, tuple) else (value,)))
    back = {}
    for name, values in dict(random_weights(TINY, seed=3) if weights is None else weights).items():
        short = name
        for theirs, ours in NAMES.items():
            short = short.replace(theirs, ours)
        kind = GGMLQuantizationType.F32 if values.ndim == 1 else quantisation
        back[name] = dequantize(quantize(values, kind), kind)
        if ".q_proj" in name or ".k_proj" in name:
            values = interleaved(values, TINY.num_attention_heads if ".q_proj" in name else TINY.num_key_value_heads)
        writer.add_tensor(short, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return back


@pytest.mark.parametrize("quantisation", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_a_written_file_is_read_back(tmp_path, quantisation):
    back = write_gguf(tmp_path / "tiny.gguf", GGMLQuantizationType[quantisation])
    source = open_weights(str(tmp_path / "tiny.gguf"))
    assert (source.kind, source.config, source.template) == ("gguf", TINY, None)
    assert source.shapes() == parameter_shapes(TINY)
    cast = "" if quantisation == "F32" else f"; {quantisation} -> F32: 16"
    assert str(check(source)) == f"21 tensors, {TINY.num_parameters:,} parameters, all found{cast}"
    for name, values in back.items():
        read = source.tensor(name)
        assert read.dtype == np.float32
        assert read.flags.writeable
        assert np.array_equal(read, values), name
    assert source.tokenizer() is None


@pytest.mark.parametrize("quantisation", ["Q4_K", "Q6_K", "Q5_0", "Q2_K"])
def test_other_quantisations_are_dequantised_as_by_gguf(tmp_path, quantisation):
    """Random blocks, since gguf can't quantise to these types; read in chunks of rows."""
    kind = GGMLQuantizationType[quantisation]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    for key, value in METADATA.items():
        getattr(writer, key)(value)
    writer.add_embedding_length(block)
    stored = np.random.default_rng(0).integers(0, 0x3C, (TINY.vocab_size, size), np.uint8)  # no scale is NaN
    writer.add_tensor("token_embd.weight", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    source = open_weights(str(tmp_path / "x.gguf"))
    assert source.stored_dtype("model.embed_tokens.weight") == quantisation
    whole = dequantize(stored, kind)
    assert np.isfinite(whole).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dscoder_exp.weights.formats.tensor_io.CHUNK_BYTES", 4 * block * 7)
        assert len(list(source.row_chunks("model.embed_tokens.weight"))) == -(-TINY.vocab_size // 7)
        assert np.array_equal(source.tensor("model.embed_tokens.weight"), whole)


def test_metadata_that_changes_the_config(tmp_path):
    tied = {name: values for name, values in random_weights(TINY, seed=3) if name != "lm_head.weight"}
    write_gguf(
        tmp_path / "tiny.gguf",
        weights=tied,
        add_rope_scaling_type=gguf.RopeScalingType.LINEAR,
        add_rope_scaling_factor=4.0,
        add_chat_template="<|im_start|>",
        add_pad_token_id=5,
    )
    source = open_weights(str(tmp_path / "tiny.gguf"))
    assert source.config.tie_word_embeddings
    assert source.config.rope_scaling == RopeScaling("linear", 4.0)
    assert source.template is not None
    assert (source.config.pad_token_id, source.template.source) == (5, "<|im_start|>")
    assert len(check(source).tensors) == 20


def test_all_end_tokens_of_the_metadata_stop_an_answer(tmp_path):
    """The end of a text, of a turn, of a message."""
    write_gguf(tmp_path / "one.gguf")
    assert open_weights(str(tmp_path / "one.gguf")).generation.stop_token_ids == (2,)
    write_gguf(tmp_path / "tiny.gguf", add_eot_token_id=7, add_uint32=("tokenizer.ggml.eom_token_id", 9))
    source = open_weights(str(tmp_path / "tiny.gguf"))
    assert (source.config.eos_token_id, source.generation.stop_token_ids) == (2, (2, 7, 9))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (
            {"arch": "qwen2"},
            "general.architecture is 'qwen2', not 'llama': a bias on its query, key",
        ),
        ({"add_sliding_window": 4096}, "sliding_window is 4096; sliding-window attention is not supported"),
        ({"add_expert_count": 8}, "a mixture of 8 experts"),
        ({"add_rope_scaling_type": gguf.RopeScalingType.LONGROPE}, "rope scaling 'longrope' is not supported"),
        (
            {"add_rope_scaling_type": gguf.RopeScalingType.YARN, "add_rope_scaling_yarn_ext_factor": 0.5},
            "rope scaling 'yarn with yarn_ext_factor 0.5' is not supported",
        ),
        ({"weights": {"rope_freqs.weight": np.ones(8, np.float32)}}, "no weights in it (token_embd.weight is missing)"),
    ],
)
def test_files_that_are_refused(tmp_path, options, what):
    write_gguf(tmp_path / "tiny.gguf", **options)
    message = refusal(open_weights, str(tmp_path / "tiny.gguf"))
    assert f"{tmp_path / 'tiny.gguf'}: {what}" in message


def llama3_divisors(size, theta, factor, low, high, length):
    """As LlamaModel.generate_extra_tensors of convert_hf_to_gguf.py computes rope_freqs.weight."""
    found = []
    for pair in range(size // 2):
        wavelength = 2 * math.pi * theta ** (2 * pair / size)
        smooth = (length / wavelength - low) / (high - low)
        if wavelength < length / high:
            found.append(1)
        elif wavelength > length / low:
            found.append(factor)
        else:
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, np.float32)


@pytest.mark.parametrize(
    ("size", "theta", "scaling"),
    [
        (128, 5e5, (8.0, 1.0, 4.0, 8192)),  # Llama 3.1
        (64, 5e5, (32.0, 1.0, 4.0, 8192)),  # Llama 3.2
        (16, 1e4, (8.0, 1.0, 4.0, 64)),
        (16, 1e4, (4.0, 1.0, 4.0, 1 << 16)),  # no pair is slow enough to be divided by all of the factor
        (128, 5e5, (8.0, 1.0, 3.0, 10_000)),
        (128, 1e6, (4.0, 2.0, 8.0, 4096)),  # the same as 1, 4 and 2,048
    ],
)
def test_llama3_scaling_is_found_in_the_divisors_of_the_frequencies(tmp_path, size, theta, scaling):
    divisors = llama3_divisors(size, theta, *scaling)
    weights = dict(random_weights(TINY, seed=3)) | {"rope_freqs.weight": divisors}
    write_gguf(tmp_path / "tiny.gguf", weights=weights, add_rope_freq_base=theta, add_key_length=size)
    source = open_weights(str(tmp_path / "tiny.gguf"))
    found = source.config.rope_scaling
    assert found is not None
    assert (found.type, found.low_freq_factor) == ("llama3", 1.0)
    again = (found.factor, found.low_freq_factor, found.high_freq_factor, found.original_max_position_embeddings)
    np.testing.assert_allclose(llama3_divisors(size, theta, *again), divisors, rtol=1e-4)
    if scaling[1:3] == (1.0, 4.0) and size > 16:
        assert again == scaling
    assert "rope_freqs.weight" not in source.shapes()


def test_divisors_that_change_nothing_or_are_not_llama3s(tmp_path):
    weights = dict(random_weights(TINY, seed=3))
    write_gguf(tmp_path / "tiny.gguf", weights=weights | {"rope_freqs.weight": np.ones(8, np.float32)})
    assert open_weights(str(tmp_path / "tiny.gguf")).config.rope_scaling is None
    write_gguf(tmp_path / "tiny.gguf", weights=weights | {"rope_freqs.weight": np.arange(1, 9, dtype=np.float32)})
    message = refusal(open_weights, str(tmp_path / "tiny.gguf"))
    assert 'rope scaling "rope_freqs.weight with other values than llama3\'s" is not supported' in message


def test_yarn_scaling(tmp_path):
    write_gguf(
        tmp_path / "tiny.gguf",
        add_rope_scaling_type=gguf.RopeScalingType.YARN,
        add_rope_scaling_factor=16.0,
        add_rope_scaling_orig_ctx_len=4096,
        add_rope_scaling_yarn_beta_fast=16.1,
        add_rope_scaling_yarn_attn_factor=1.25,
    )
    found = open_weights(str(tmp_path / "tiny.gguf")).config.rope_scaling
    assert found == RopeScaling("yarn", 16.0, 4096, beta_fast=16.1, attention_factor=1.25)


@pytest.mark.parametrize("given", [1, 2, 3])
def test_any_part_of_a_split_file_opens_all(tmp_path, given):
    back = write_gguf(tmp_path / "tiny.gguf", GGMLQuantizationType.Q8_0, per_part=8, add_chat_template="x")
    parts = sorted(file.name for file in tmp_path.iterdir())
    assert parts == [f"tiny-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    source = open_weights(str(tmp_path / parts[given - 1]))
    assert source.config == TINY
    assert source.template is not None
    assert source.template.source == "x"
    assert str(check(source)).startswith("21 tensors")
    assert all(np.array_equal(source.tensor(name), values) for name, values in back.items())


def test_a_split_file_that_is_incomplete(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", per_part=8)
    first, second, third = sorted(tmp_path.iterdir())
    content = second.read_bytes()
    second.unlink()
    message = refusal(open_weights, str(third), "weights.source")
    assert f"weights.source: {third}: 1 of 3 parts are missing beside it: {second.name}\n      -> put all" in message
    write_gguf(tmp_path / "other.gguf", per_part=20)
    second.write_bytes((tmp_path / "other-00002-of-00002.gguf").read_bytes())
    assert "the parts hold 14 tensors, and should hold 21" in refusal(open_weights, str(first))
    second.write_bytes(content)
    first.rename(tmp_path / "first.gguf")
    assert "one of 3 parts by its metadata, but not by its name" in refusal(open_weights, str(tmp_path / "first.gguf"))


def test_unknown_tensors_are_named(tmp_path):
    weights = dict(random_weights(TINY, seed=3)) | {"blk.0.attn_q.bias": np.ones(64, np.float32)}
    del weights["model.layers.1.mlp.up_proj.weight"]
    write_gguf(tmp_path / "tiny.gguf", weights=weights)
    message = refusal(check, open_weights(str(tmp_path / "tiny.gguf")))
    assert "1 missing (model.layers.1.mlp.up_proj.weight); 1 unexpected (blk.0.attn_q.bias)" in message


def test_a_truncated_file_is_refused(tmp_path):
    file = tmp_path / "tiny.gguf"
    write_gguf(file, add_token_list=[b"a", b"bc", b"def"], add_tokenizer_model="gpt2")
    whole = file.read_bytes()
    for length in [*range(0, 2000, 7), len(whole) // 2, len(whole) - 40]:
        file.write_bytes(whole[:length])
        with pytest.raises(Refused, match=r"model\.path: .*tiny\.gguf: not a readable GGUF file"):
            open_weights(str(file))
    file.write_bytes(b"not a model at all, only text")
    assert "not a readable GGUF file (GGUF magic invalid)" in refusal(open_weights, str(file))


@pytest.mark.parametrize(("model", "pre"), [("gpt2", "default"), ("bert", "jina-v2")])
def test_an_unknown_tokenizer_is_refused_by_name(tmp_path, model, pre):
    write_gguf(tmp_path / "tiny.gguf", add_tokenizer_model=model, add_tokenizer_pre=pre)
    message = refusal(open_weights(str(tmp_path / "tiny.gguf")).tokenizer)
    assert f"tokenizer.path: {tmp_path / 'tiny.gguf'}: its tokenizer (model '{model}', pre '{pre}') is not" in message
    assert "-> set tokenizer.path to the model's tokenizer.json" in message


@pytest.fixture(scope="module")
def smollm2():
    try:
        return open_weights(SMOLLM2)
    except Refused as refused:
        pytest.skip(str(refused))


def test_smollm2_metadata_is_what_gguf_itself_reads(smollm2):
    reader = gguf.GGUFReader(smollm2.path)  # slow, but an independent reader
    ours = smollm2._reader
    assert ours.fields.keys() == reader.fields.keys()
    for key, field in reader.fields.items():
        assert ours.value(key) == field.contents(), key
    assert ours.value("no.such.key") is None


def test_smollm2_is_complete(smollm2):
    config = smollm2.config
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (30, 576, 1536)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (9, 3, 64)
    assert (config.rope_theta, config.rms_norm_eps, config.tie_word_embeddings) == (1e5, 1e-5, True)
    assert smollm2.template.source.startswith("{% for message in messages %}")
    assert str(check(smollm2)) == "272 tensors, 134,515,008 parameters, all found; Q4_1 -> F32: 210; Q8_0 -> F32: 1"
    matrix = smollm2.tensor("model.layers.29.mlp.down_proj.weight")
    assert matrix.shape == (576, 1536)
    assert 0.01 < matrix.std() < 1


def test_smollm2_tokenizer_gives_the_reference_ids(smollm2, shared_data):
    tokenizer = smollm2.tokenizer()
    prompts = json.loads((shared_data / "parity" / "smollm2" / "reference.json").read_text())["prompts"]
    assert len(prompts) == 4
    for prompt in prompts:
        assert tokenizer.encode(prompt["prompt"]).ids == prompt["input_ids"]
        assert tokenizer.decode(prompt["input_ids"], skip_special_tokens=False) == prompt["prompt"]


def test_smollm2_tokenizer_splits_digits_off_before_spaces(smollm2):
    """Without the Digits step the last space would join the number, and the run of spaces would be split."""
    tokens = smollm2.tokenizer().encode("n =    12\n\n3").tokens
    assert tokens == ["n", "Ġ=", "ĠĠĠĠ", "1", "2", "ĊĊ", "3"]


def test_smollm2_tokenizer_keeps_control_tokens_and_digits_whole(smollm2):
    tokenizer = smollm2.tokenizer()
    assert tokenizer.encode("<|im_start|>user\n2048<|im_end|>").tokens == [
        *("<|im_start|>", "user", "Ċ"),
        *("2", "0", "4", "8", "<|im_end|>"),
    ]
    assert tokenizer.decode([1, 2]) == ""  # special tokens are skipped
