"""Hugging Face directories: one file, shards, half precision, and refusals."""

import json
import shutil
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from weights_support import REFERENCE, TINY, refusal

from dscoder_exp.schema.llama import RopeScaling
from dscoder_exp.weights.check import check, compare
from dscoder_exp.weights.formats.hf_config import from_hf, to_hf
from dscoder_exp.weights.names import HEAD, parameter_shapes
from dscoder_exp.weights.source import open_weights


@pytest.fixture
def copy(tmp_path):
    """A writable copy of tiny_gqa."""
    return shutil.copytree(REFERENCE / "tiny_gqa", tmp_path / "model")


def edit(file, **changes):
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | changes))


@pytest.mark.parametrize("name", ["tiny_gqa", "tiny_gqa_tied", "tiny_mha_linear4"])
def test_one_file_equals_what_the_safetensors_library_reads(name):
    source = open_weights(str(REFERENCE / name))
    reference = load_file(REFERENCE / name / "model.safetensors")
    assert (source.kind, source.template, source.tokenizer()) == ("hf", None, None)
    assert source.shapes() == {name: tensor.shape for name, tensor in reference.items()}
    for tensor, values in reference.items():
        read = source.tensor(tensor)
        assert read.dtype == np.float32
        assert read.flags.writeable
        assert np.array_equal(read, values)
    assert check(source).parameters == source.config.num_parameters


def test_shards_equal_one_file():
    whole, sharded = open_weights(str(REFERENCE / "tiny_gqa")), open_weights(str(REFERENCE / "tiny_gqa_sharded"))
    assert whole.config == sharded.config
    assert whole.shapes() == sharded.shapes()
    assert all(np.array_equal(whole.tensor(name), sharded.tensor(name)) for name in whole.shapes())
    blocks = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 176 + 2 * 64)
    assert blocks + 2 * 128 * 64 + 64 == 108_864
    assert str(check(sharded)) == "21 tensors, 108,864 parameters, all found"


def test_config_of_the_linear_model():
    config = open_weights(str(REFERENCE / "tiny_mha_linear4")).config
    assert config.rope_scaling == RopeScaling("linear", 4.0)
    assert (config.rope_theta, config.rms_norm_eps, config.num_key_value_heads) == (1e5, 1e-6, 4)


def test_half_precision_becomes_float32(tmp_path):
    bits = {"BF16": np.array([0x3F80, 0xC020, 0x4049], "<u2"), "F16": np.array([1.0, -2.5, 3.140625], "<f2")}
    for dtype, data in bits.items():
        directory = tmp_path / dtype
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(to_hf(TINY)))
        header = json.dumps({"x": {"dtype": dtype, "shape": [3, 1], "data_offsets": [0, 6]}}).encode()
        file = directory / "model.safetensors"
        file.write_bytes(struct.pack("<Q", len(header)) + header + data.tobytes())
        read = open_weights(str(directory)).tensor("x")
        assert read.dtype == np.float32
        assert read.tolist() == [[1.0], [-2.5], [3.140625]]


def test_config_forms():
    base = to_hf(TINY)
    assert from_hf(base, "f") == TINY
    without = {k: v for k, v in base.items() if k not in ("head_dim", "num_key_value_heads", "rope_theta")}
    config = from_hf(without | {"head_dim": None, "eos_token_id": [7, 8]}, "f")
    assert (config.head_dim, config.num_key_value_heads, config.rope_theta, config.eos_token_id) == (16, 4, 1e4, 7)
    newer = without | {"rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 5e5}}
    assert from_hf(newer, "f").rope_scaling == RopeScaling("linear", 2.0)
    assert from_hf(newer, "f").rope_theta == 5e5
    assert from_hf(without | {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, "f").rope_theta == 7.0
    assert from_hf(base | {"rope_scaling": {"type": "linear", "factor": 4.0}}, "f").rope_scaling is not None


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"rope_scaling": {"rope_type": "llama3", **LLAMA3}}, RopeScaling("llama3", 8.0, 8192, 1.0, 4.0)),
        ({"rope_parameters": {"rope_type": "llama3", **LLAMA3}}, RopeScaling("llama3", 8.0, 8192, 1.0, 4.0)),
        ({"rope_scaling": {"type": "yarn", "factor": 16, "finetuned": True}}, RopeScaling("yarn", 16.0, 128)),
        (
            {"rope_scaling": {"rope_type": "yarn", "type": "mrope", "original_max_position_embeddings": 32}},
            RopeScaling("yarn", 4.0, 32),  # rope_type counts first; the factor is that of the contexts
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 40, "mscale": 1, "mscale_all_dim": 0.8, "truncate": False}},
            RopeScaling("yarn", 40.0, 128, mscale=1.0, mscale_all_dim=0.8, truncate=False),
        ),
        (
            {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear", "factor": 2}},
            RopeScaling("linear", 2.0),  # as in transformers 5
        ),
        ({"rope_scaling": {"type": "default"}}, None),
    ],
)
def test_rope_scaling_of_all_spellings(values, expected):
    config = from_hf(to_hf(TINY) | {"rope_scaling": None} | values, "f")
    assert config.rope_scaling == expected
    assert from_hf(to_hf(config), "f") == config


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            {"model_type": "mistral"},
            "model_type is 'mistral', not 'llama': its sliding-window attention is not supported",
        ),
        (
            {"model_type": "qwen3"},
            "model_type is 'qwen3', not 'llama': a norm on its queries and keys is not supported",
        ),
        ({"sliding_window": 4096}, "sliding_window is 4096; sliding-window attention is not supported"),
        ({"model_type": None}, "model_type is missing, not 'llama'"),
        ({"attention_bias": True}, "attention_bias is true; projections with a bias are not supported"),
        ({"mlp_bias": True}, "mlp_bias is true; projections with a bias are not supported"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', not 'silu'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope scaling 'dynamic' is not supported"),
        (
            {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0]}},
            "rope scaling 'longrope' is not supported",
        ),
        ({"rope_parameters": {"rope_type": "ntk"}}, "rope scaling 'ntk' is not supported"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0}},
            "low_freq_factor is missing, not a number above 0",
        ),
        (
            {"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}},
            "low_freq_factor is not below high_freq_factor",
        ),
        ({"rope_scaling": {"type": "yarn", "factor": "16"}}, "factor is '16', not a number above 0"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 0.5}},
            "original_max_position_embeddings is 0.5, not a whole number from 1 to 2147483647",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}, "sliding_attention": {}}},
            "rope_parameters differ by layer (full_attention, …), which is not supported",
        ),
        (
            {"partial_rotary_factor": 0.5},
            "partial_rotary_factor is not 1; rotating a part of each head is not supported",
        ),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing, not a number above 0"),
        ({"quantization_config": {"bits": 4}}, "the weights are quantised (quantization_config)"),
        ({"hidden_size": "64"}, "hidden_size is '64', not a whole number from 1 to 2147483647"),
        ({"vocab_size": None}, "vocab_size is missing, not a whole number from 1 to 2147483647"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"head_dim": None, "hidden_size": 66}, "hidden_size 66 is not a multiple of num_attention_heads 4"),
        ({"head_dim": 15}, "head_dim 15 is odd; rotary embedding needs pairs"),
        ({"eos_token_id": "</s>"}, "eos_token_id is '</s>', not a token id"),
    ],
)
def test_a_config_that_is_refused(copy, changes, what):
    edit(copy / "config.json", **changes)
    message = refusal(open_weights, str(copy))
    assert message.startswith(f"dscoder_exp: refused\n  - {copy / 'config.json'}: {what}\n      -> ")


def test_all_problems_of_a_config_at_once(copy):
    edit(copy / "config.json", attention_bias=True, hidden_act="relu", vocab_size=-1)
    message = refusal(open_weights, str(copy))
    assert "refused, 3 problems" in message
    assert all(word in message for word in ("attention_bias", "hidden_act", "vocab_size"))


def test_malformed_config_names_the_line(copy):
    (copy / "config.json").write_text('{\n "model_type": "llama",\n oops}')
    assert f"{copy / 'config.json'}:3: malformed JSON" in refusal(open_weights, str(copy))


def test_directories_without_weights(copy, tmp_path):
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'} holds no model: neither config.json nor checkpoint.json" in refusal(
        open_weights, str(tmp_path / "empty")
    )
    (copy / "model.safetensors").unlink()
    message = refusal(open_weights, str(copy), "weights.source")
    assert f"weights.source: {copy} has a config.json but no weights" in message
    assert "is not a file of weights" in refusal(open_weights, str(copy / "config.json"))


def test_a_missing_shard_and_a_wrong_index(tmp_path):
    copy = shutil.copytree(REFERENCE / "tiny_gqa_sharded", tmp_path / "model")
    index = json.loads((copy / "model.safetensors.index.json").read_text())
    index["weight_map"]["ghost"] = "model-00001-of-00005.safetensors"
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    message = refusal(open_weights(str(copy)).shapes)
    assert "names 1 tensors that the files lack, such as ghost in model-00001-of-00005.safetensors" in message
    (copy / "model-00002-of-00005.safetensors").unlink()
    (copy / "model-00004-of-00005.safetensors").unlink()
    message = refusal(open_weights, str(copy))
    assert "2 problems" in message
    assert f"{copy / 'model-00002-of-00005.safetensors'} is missing, named in model.safetensors.index.json" in message


def test_a_truncated_file(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert f"model.path: {file}: not a readable safetensors file (" in refusal(check, open_weights(str(copy)))


def test_integer_dtypes_are_refused(copy):
    tensors = load_file(copy / "model.safetensors")
    save_file(tensors | {"model.norm.weight": np.zeros(64, np.int8)}, copy / "model.safetensors")
    message = refusal(check, open_weights(str(copy)))
    assert "1 of another shape or dtype (model.norm.weight I8 [64] instead of [64])" in message


def test_check_names_tensors_that_do_not_match(copy):
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"] = np.ones(3, np.float32)
    del tensors["lm_head.weight"]
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.ones(64, np.float32)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)  # old files have it
    save_file(tensors, copy / "model.safetensors")
    source = open_weights(str(copy))
    report = compare(source)
    assert report.missing == ("lm_head.weight",)
    assert report.unexpected == ("model.layers.0.self_attn.q_proj.bias",)
    assert report.mismatched == ("model.norm.weight F32 [3] instead of [64]",)
    left = 108_864 - 128 * 64 - 64
    message = refusal(check, source)
    assert f"{copy}: 19 tensors, {left:,} parameters; 1 missing (lm_head.weight); 1 unexpected (" in message
    assert (
        "q_proj.bias); 1 of another shape or dtype (model.norm.weight F32 [3] instead of [64]); 1 ignored (" in message
    )


def test_check_names_five_of_many(copy):
    save_file({"model.norm.weight": np.ones(64, np.float32)}, copy / "model.safetensors")
    message = refusal(check, open_weights(str(copy)))
    assert "20 missing (" in message
    assert message.count("model.layers.") == 4  # after the embedding
    assert ", …)" in message


def test_a_tied_models_stored_head_is_ignored(tmp_path):
    copy = shutil.copytree(REFERENCE / "tiny_gqa_tied", tmp_path / "model")
    tensors = load_file(copy / "model.safetensors")
    save_file(tensors | {HEAD: tensors["model.embed_tokens.weight"]}, copy / "model.safetensors")
    report = check(open_weights(str(copy)))
    assert report.tensors == tuple(parameter_shapes(open_weights(str(copy)).config))
    assert str(report).endswith("all found; 1 ignored (lm_head.weight)")
    save_file(tensors | {HEAD: tensors["model.embed_tokens.weight"] + 1}, copy / "model.safetensors")
    message = refusal(check, open_weights(str(copy)))
    assert f"{copy}: tie_word_embeddings is true, but lm_head.weight differs from model.embed_tokens.weight" in message


def test_the_chat_template_lies_with_the_model(copy):
    """Where and how it is read: tests/data/test_chat_template.py."""
    (copy / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    found = open_weights(str(copy)).template
    assert found is not None
    assert (found.source, found.origin) == ("{{ messages }}", str(copy / "tokenizer_config.json"))
