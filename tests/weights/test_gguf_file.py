"""GGUF files: small ones written by the tests, and SmolLM2's."""

import json

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


def write_gguf(path, quantisation=GGMLQuantizationType.F32, arch="llama", weights=None, **metadata):
    """Write a GGUF file of TINY; return the tensors that should be read back."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_embedding_length(TINY.hidden_size)
    for key, value in (METADATA | metadata).items():
        getattr(writer, key)(value)
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
    assert (source.config.pad_token_id, source.template) == (5, "chatml")
    assert len(check(source).tensors) == 20


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (
            {"arch": "qwen2"},
            "general.architecture is 'qwen2', not 'llama': a bias on its query, key",
        ),
        ({"add_sliding_window": 4096}, "sliding_window is 4096; sliding-window attention is not supported"),
        ({"add_expert_count": 8}, "a mixture of 8 experts"),
        ({"add_rope_scaling_type": gguf.RopeScalingType.YARN}, "rope scaling 'yarn' is not supported"),
        ({"weights": {"rope_freqs.weight": np.ones(8, np.float32)}}, "no weights in it (token_embd.weight is missing)"),
    ],
)
def test_files_that_are_refused(tmp_path, options, what):
    write_gguf(tmp_path / "tiny.gguf", **options)
    message = refusal(open_weights, str(tmp_path / "tiny.gguf"))
    assert f"{tmp_path / 'tiny.gguf'}: {what}" in message


def test_llama3_frequencies_are_refused(tmp_path):
    weights = dict(random_weights(TINY, seed=3)) | {"rope_freqs.weight": np.ones(8, np.float32)}
    write_gguf(tmp_path / "tiny.gguf", weights=weights)
    assert "rope scaling 'llama3' is not supported" in refusal(open_weights, str(tmp_path / "tiny.gguf"))


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


@pytest.mark.parametrize(("model", "pre"), [("gpt2", "deepseek-coder"), ("llama", "default")])
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
    assert smollm2.template == "chatml"
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
