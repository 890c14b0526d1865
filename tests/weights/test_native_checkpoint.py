"""Native checkpoints: written atomically, read back bit by bit."""

import dataclasses
import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from weights_support import REFERENCE, TINY, equal, refusal, save_checkpoint

from dscoder_exp.schema.llama import RopeScaling
from dscoder_exp.weights.chat_template import ModelTemplate
from dscoder_exp.weights.check import check
from dscoder_exp.weights.names import parameter_shapes
from dscoder_exp.weights.random_init import random_weights
from dscoder_exp.weights.source import open_weights
from dscoder_exp.weights.tokenizer import Fingerprint, fingerprint


def save(directory, tensors=None, config=TINY, tokenizer=None, template=None):
    tensors = random_weights(config, seed=1) if tensors is None else tensors
    save_checkpoint(directory, config, tensors, tokenizer=tokenizer, template=template, lineage={"from": "seed 1"})


@pytest.fixture
def tokenizer():
    built = Tokenizer(models.BPE(vocab={"a": 0, "<s>": 1, "</s>": 2, "b": 3, "ab": 4}, merges=[("a", "b")]))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return built


@pytest.mark.parametrize("name", ["tiny_gqa_sharded", "tiny_gqa_tied", "tiny_mha_linear4"])
def test_a_written_checkpoint_is_read_back_bit_by_bit(tmp_path, name):
    source = open_weights(str(REFERENCE / name))
    original = {tensor: source.tensor(tensor) for tensor in source.shapes()}
    save(tmp_path / "a" / "b", reversed(original.items()), source.config)
    copy = open_weights(str(tmp_path / "a" / "b"))
    assert (copy.kind, copy.config) == ("native", source.config)
    assert equal({tensor: copy.tensor(tensor) for tensor in copy.shapes()}, original)
    assert check(copy).complete


def test_the_directory_holds_exactly_these_files(tmp_path, tokenizer):
    save(tmp_path / "plain")
    save(tmp_path / "with", tokenizer=tokenizer, template=ModelTemplate("deepseek_coder", "{{ 1 }}", "data.template"))
    plain = {"checkpoint.json", "config.json", "generation_config.json", "model.safetensors"}
    assert {file.name for file in (tmp_path / "plain").iterdir()} == plain
    assert {file.name for file in (tmp_path / "with").iterdir()} == plain | {
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert {file.name for file in tmp_path.iterdir()} == {"plain", "with"}
    source = open_weights(str(tmp_path / "with"))
    read = source.tokenizer()
    assert source.template == ModelTemplate("deepseek_coder", "{{ 1 }}", str(tmp_path / "with" / "chat_template.jinja"))
    assert read is not None
    assert fingerprint(read) == fingerprint(tokenizer)
    settings = json.loads((tmp_path / "with" / "tokenizer_config.json").read_text())
    assert (settings["bos_token"], settings["eos_token"]) == ("<s>", "</s>")
    record = json.loads((tmp_path / "with" / "checkpoint.json").read_text())
    assert source.fingerprint() == fingerprint(tokenizer) == Fingerprint(**record["tokenizer"])
    plain = open_weights(str(tmp_path / "plain"))
    assert (plain.tokenizer(), plain.fingerprint()) == (None, None)


def test_checkpoint_json_records_what_was_written(tmp_path):
    save(tmp_path / "x")
    record = json.loads((tmp_path / "x" / "checkpoint.json").read_text())
    assert (record["format"], record["version"], record["layout"]) == ("dscoder_exp", 2, {"tensor": 1})
    assert record["lineage"] == {"from": "seed 1"}
    assert record["files"].keys() == {"config.json", "generation_config.json", "model.safetensors"}
    content = (tmp_path / "x" / "config.json").read_bytes()
    assert record["files"]["config.json"] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert record["files"]["model.safetensors"] == {"bytes": (tmp_path / "x" / "model.safetensors").stat().st_size}
    for name, values in random_weights(TINY, seed=1):
        digest = hashlib.sha256(values.tobytes()).hexdigest()
        written = {"dtype": "F32", "shape": list(values.shape), "axis": None, "sha256": [digest]}
        assert record["tensors"].pop(name) == written
    assert record["tensors"] == {}


@pytest.mark.parametrize(
    "scaling",
    [
        RopeScaling("linear", 2.5),
        RopeScaling("llama3", 8.0, 64, 1.0, 4.0),
        RopeScaling("yarn", 4.0, 32, beta_fast=16.0, attention_factor=1.5, truncate=False),
    ],
)
def test_a_checkpoint_is_also_a_hugging_face_directory(tmp_path, scaling):
    config = dataclasses.replace(TINY, rope_scaling=scaling, pad_token_id=2, head_dim=8)
    save(tmp_path / "x", config=config)
    (tmp_path / "x" / "checkpoint.json").unlink()
    source = open_weights(str(tmp_path / "x"))
    assert (source.kind, source.config) == ("hf", config)
    assert check(source).complete
    assert equal(load_file(tmp_path / "x" / "model.safetensors"), dict(random_weights(config, seed=1)))


def test_other_dtypes_and_layouts_are_written_as_float32(tmp_path):
    odd = {name: np.asfortranarray(values.astype(np.float64)) for name, values in random_weights(TINY, seed=1)}
    save(tmp_path / "x", odd.items())
    source = open_weights(str(tmp_path / "x"))
    assert equal({name: source.tensor(name) for name in source.shapes()}, dict(random_weights(TINY, seed=1)))


def test_a_failed_write_leaves_nothing(tmp_path):
    def breaks():
        yield from list(random_weights(TINY, seed=1))[:7]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "x", breaks())
    assert list(tmp_path.iterdir()) == []


def test_after_a_killed_write_the_next_one_succeeds(tmp_path):
    script = f"""
import os, signal, sys
sys.path[:0] = {[str(REFERENCE.parent / folder) for folder in ("weights", "support")]!r}
from pathlib import Path
from test_native_checkpoint import TINY, random_weights, save
def killed():
    yield from list(random_weights(TINY, seed=1))[:7]
    os.kill(os.getpid(), signal.SIGKILL)
save(Path({str(tmp_path)!r}) / "x", killed())
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == -9
    assert not (tmp_path / "x").exists()
    save(tmp_path / "x")
    assert check(open_weights(str(tmp_path / "x"))).complete


def test_an_existing_target_is_refused_untouched(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("kept")
    assert f"output_dir: {tmp_path / 'x'} exists already" in refusal(save, tmp_path / "x")
    assert [file.name for file in tmp_path.rglob("*")] == ["x", "mine"]


def test_records_of_releases_that_wrote_no_template(tmp_path):
    """They name one of our formats, or a file that lies beside them."""
    save(tmp_path / "x", template=ModelTemplate("deepseek_coder", None, ""))
    assert open_weights(str(tmp_path / "x")).template == ModelTemplate("deepseek_coder", None, str(tmp_path / "x"))
    save(tmp_path / "y", template=ModelTemplate("chat_template.jinja", "{{ 1 }}", ""))
    found = open_weights(str(tmp_path / "y")).template
    assert found is not None
    assert found.source == "{{ 1 }}"
    save(tmp_path / "z")
    assert open_weights(str(tmp_path / "z")).template is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:-1], "1 tensors were not written completely, such as lm_head.weight"),
        (lambda t: [*t, t[0]], "model.embed_tokens.weight: not a tensor of this model, or given twice"),
        (lambda t: [("other", t[0][1])], "other: not a tensor of this model, or given twice"),
        (lambda t: [(t[0][0], t[0][1].T)], r"model.embed_tokens.weight: shape \(64, 96\), expected \(96, 64\)"),
    ],
)
def test_tensors_of_another_model_are_an_error(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "x", change(list(random_weights(TINY, seed=1))))
    assert list(tmp_path.iterdir()) == []


def test_damage_is_refused(tmp_path):
    save(tmp_path / "x")
    file, record = tmp_path / "x" / "model.safetensors", tmp_path / "x" / "checkpoint.json"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    source = open_weights(str(tmp_path / "x"))
    assert check(source).complete  # reads headers only
    message = refusal(source.tensor, "lm_head.weight")
    assert f"{file}, lm_head.weight: its content has changed since it was written (SHA-256 differs)" in message
    file.write_bytes(whole[:-4])
    message = refusal(open_weights, str(tmp_path / "x"))
    assert f"{file} has {len(whole) - 4:,} bytes, but was written with {len(whole):,}" in message
    file.unlink()
    assert f"model.path: {file} is missing" in refusal(open_weights, str(tmp_path / "x"))
    text = record.read_text()
    record.write_text(text.replace('"version": 2', '"version": 3'))
    message = refusal(open_weights, str(tmp_path / "x"))
    assert f"{record}: format 'dscoder_exp' version 3; expected 'dscoder_exp' version 2" in message
    (tmp_path / "x" / "config.json").write_text(
        (tmp_path / "x" / "config.json").read_text().replace("10000.0", "20000.0")
    )
    file.write_bytes(whole)
    record.write_text(text)
    message = refusal(open_weights, str(tmp_path / "x"))
    assert f"{tmp_path / 'x' / 'config.json'}: its content has changed since it was written" in message
    record.write_text(text.replace('"files"', '"other"'))
    assert f"{record}: damaged: KeyError('files')" in refusal(open_weights, str(tmp_path / "x"))


def test_random_weights():
    first, again = dict(random_weights(TINY, seed=1)), dict(random_weights(TINY, seed=1))
    assert {name: values.shape for name, values in first.items()} == parameter_shapes(TINY)
    assert equal(first, again)
    assert not equal(first, dict(random_weights(TINY, seed=2)))
    assert (first["model.norm.weight"] == 1).all()
    assert all(values.dtype == np.float32 for values in first.values())
    assert np.isclose(first["model.embed_tokens.weight"].std(), 0.02, rtol=0.05)
    assert not np.array_equal(
        first["model.layers.0.self_attn.q_proj.weight"], first["model.layers.1.self_attn.q_proj.weight"]
    )


def test_neither_mindspore_nor_the_heavy_libraries_are_imported(tmp_path):
    save(tmp_path / "x")
    script = f"""
import sys
from dscoder_exp.weights import check, random_init, source, tokenizer
from dscoder_exp.weights.native import writer
check.check(source.open_weights({str(tmp_path / "x")!r}))
print(sorted({{"mindspore", "torch", "transformers", "mlflow", "gguf", "tokenizers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
