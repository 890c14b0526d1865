"""Weights of MindSpore Transformers: MindSpore reads the files written here, and writes those read here."""

import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_convert import random_bits, run, stored, to_mindformers, write_hf
from weights_support import EMPTY_MODEL, NO_PATH, REFERENCE, TINY, equal, refusal, weights_config

from dscoder_exp.weights.check import check
from dscoder_exp.weights.convert.conversion import convert, open_conversion
from dscoder_exp.weights.convert.plan import plan_hf
from dscoder_exp.weights.formats.ckpt_file import read_ckpt
from dscoder_exp.weights.formats.mindformers import mindformers_name
from dscoder_exp.weights.names import parameter_shapes
from dscoder_exp.weights.random_init import random_tensor, random_weights
from dscoder_exp.weights.source import open_weights

ms = pytest.importorskip("mindspore")


def save(file: Path, tensors: dict[str, np.ndarray], dtype: str = "float32", **options: object) -> Path:
    """Save as the scripts of MindSpore Transformers do."""
    listed = [{"name": name, "data": ms.Tensor(values, getattr(ms, dtype))} for name, values in tensors.items()]
    ms.save_checkpoint(listed, str(file), **options)
    return file


def mindformers_weights() -> dict[str, np.ndarray]:
    return {mindformers_name(name): values for name, values in random_weights(TINY, seed=1)}


def test_names() -> None:
    """The names in mindformers/models/llama/llama.py."""
    assert [mindformers_name(name) for name in parameter_shapes(dataclasses.replace(TINY, num_hidden_layers=1))] == [
        "model.tok_embeddings.embedding_weight",
        "model.layers.0.attention_norm.weight",
        "model.layers.0.attention.wq.weight",
        "model.layers.0.attention.wk.weight",
        "model.layers.0.attention.wv.weight",
        "model.layers.0.attention.wo.weight",
        "model.layers.0.ffn_norm.weight",
        "model.layers.0.feed_forward.w1.weight",
        "model.layers.0.feed_forward.w3.weight",
        "model.layers.0.feed_forward.w2.weight",
        "model.norm_out.weight",
        "lm_head.weight",
    ]


@pytest.mark.parametrize("ckpt_format", ["ckpt", "safetensors"])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("piece", [700, 2**29])
def test_mindspore_reads_written_files(tmp_path: Path, ckpt_format: str, dtype: str, piece: int) -> None:
    tensors = random_bits(TINY, dtype, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dscoder_exp.weights.formats.ckpt_file.MAX_VALUE_BYTES", piece)
        target = to_mindformers(write_hf(tmp_path / "hf", TINY, tensors, dtype), tmp_path / "x", ckpt_format)
    read = ms.load_checkpoint(str(target / f"model.{ckpt_format}"), format=ckpt_format)
    assert read.keys() == {mindformers_name(name) for name in tensors}
    for name, values in tensors.items():
        found = read[mindformers_name(name)]
        assert str(found.dtype) == {"F32": "Float32", "F16": "Float16", "BF16": "BFloat16"}[dtype]
        assert found.get_bytes() == values.tobytes(), name


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"crc_check": True}, {"format": "safetensors"}])
def test_files_written_by_mindspore_are_read(tmp_path: Path, dtype: str, options: dict[str, object]) -> None:
    kind = str(options.get("format", "ckpt"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mindspore.train.serialization.SLICE_SIZE", 3)  # KB: every matrix in several values
        file = save(tmp_path / f"llama.{kind}", mindformers_weights(), dtype, **options)
    source = open_weights(str(file), shape=TINY)
    assert check(source).complete
    for name, values in random_weights(TINY, seed=1):
        expected_values = ms.Tensor(values, getattr(ms, dtype)).astype(ms.float32).asnumpy()
        assert np.array_equal(source.tensor(name), expected_values), name


def test_a_file_without_a_config_needs_the_shape(tmp_path: Path) -> None:
    file = save(tmp_path / "llama.ckpt", mindformers_weights())
    message = refusal(open_weights, str(file), "weights.source")
    assert f"weights.source: {file}: the files don't hold the model's shape" in message
    assert "or give its shape: model=7b" in message
    shape = {name: value for name, value in dataclasses.asdict(TINY).items() if name != "rope_scaling"}
    model = dataclasses.replace(EMPTY_MODEL, **shape)
    convert(open_conversion(weights_config(file, tmp_path / "hf"), model, NO_PATH))
    copy = open_weights(str(tmp_path / "hf"))
    assert copy.config == TINY
    assert equal({name: copy.tensor(name) for name in copy.shapes()}, dict(random_weights(TINY, seed=1)))
    model = dataclasses.replace(model, num_hidden_layers=3)
    message = refusal(open_conversion, weights_config(file, tmp_path / "y"), model, NO_PATH)
    assert "9 missing (model.layers.2.input_layernorm.weight," in message


def test_other_tensors_of_a_training_checkpoint_must_be_allowed(tmp_path: Path) -> None:
    moments = {f"adam_m.{name}": values for name, values in mindformers_weights().items()}
    extra = {"step_num": np.array(7, np.int32), "scale_sense": np.array(65536.0, np.float32)}
    file = save(tmp_path / "llama.ckpt", mindformers_weights() | moments | extra)
    source = open_weights(str(file), shape=TINY)
    message = refusal(check, source)
    assert "23 unexpected (adam_m.lm_head.weight, " in message
    assert "weights.allow=['NAME-or-pattern', …]" in message
    report = check(source, allow=["adam_*", "step_num", "scale_sense"])
    assert len(report.allowed) == 23
    assert "; 23 allowed by weights.allow (adam_m.lm_head.weight, " in str(report)
    target = run(source, tmp_path / "hf", plan_hf(source, 10**9), allow=report.allowed)
    assert set(stored(target)) == set(parameter_shapes(TINY))


def test_an_allowed_missing_tensor_is_left_out_and_initialised(tmp_path: Path) -> None:
    file = save(tmp_path / "llama.ckpt", {n: v for n, v in mindformers_weights().items() if n != "lm_head.weight"})
    source = open_weights(str(file), shape=TINY)
    report = check(source, allow=["lm_*"])
    assert report.allowed == ("lm_head.weight",)
    target = run(source, tmp_path / "hf", plan_hf(source, 10**9), allow=["lm_*"])
    copy = open_weights(str(target))
    assert "1 missing (lm_head.weight)" in refusal(check, copy)
    from dscoder_exp.model.build import _read

    read = dict(_read(TINY, copy, seed=4))
    assert np.array_equal(read["lm_head.weight"], random_tensor(TINY, 4, "lm_head.weight"))
    assert list(read) == list(parameter_shapes(TINY))


def test_concatenated_projections_are_explained(tmp_path: Path) -> None:
    tensors = mindformers_weights()
    parts = [tensors.pop(f"model.layers.0.attention.w{name}.weight") for name in "qkv"]
    file = save(tmp_path / "x.ckpt", tensors | {"model.layers.0.attention.w_qkv.weight": np.concatenate(parts)})
    assert "the weights were saved with qkv_concat" in refusal(check, open_weights(str(file), shape=TINY))


def test_directories(tmp_path: Path) -> None:
    sharded = to_mindformers(REFERENCE / "tiny_gqa", tmp_path / "sharded", "safetensors", 40_000)
    names = json.loads((sharded / "param_name_map.json").read_text())
    assert len(set(names.values())) > 2
    assert names.keys() == {mindformers_name(name) for name in open_weights(str(REFERENCE / "tiny_gqa")).shapes()}
    assert stored(sharded) == stored(REFERENCE / "tiny_gqa")
    (sharded / "param_name_map.json").unlink()
    (sharded / "config.json").rename(tmp_path / "config.json")
    message = refusal(open_weights, str(sharded))
    assert f"{sharded} holds " in message
    assert "files and no param_name_map.json: model-00001-of-" in message

    one = to_mindformers(REFERENCE / "tiny_gqa", tmp_path / "one", "ckpt")
    (one / "hyper_param.safetensors").write_bytes(b"of a training")
    assert stored(one) == stored(REFERENCE / "tiny_gqa")
    (tmp_path / "ranks" / "rank_0").mkdir(parents=True)
    shutil.copyfile(one / "model.ckpt", tmp_path / "ranks" / "rank_0" / "x.ckpt")
    assert "holds the slices of a distributed run (rank_*)" in refusal(open_weights, str(tmp_path / "ranks"))


class Boom:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("boom"),)  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["x.ckpt", "x.bin", "pytorch_model.bin", "x.pt"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickles_are_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / name
    file.write_bytes(pickle.dumps(Boom(), protocol))
    pickle.loads(file.read_bytes())
    (tmp_path / "boom").unlink()  # unpickling does create it
    message = refusal(lambda: check(open_weights(str(file), shape=TINY)))
    assert f"{file}{':' if name == 'x.ckpt' else ' is'} a PyTorch file" in message
    shutil.copyfile(REFERENCE / "tiny_gqa" / "config.json", tmp_path / "config.json")
    message = refusal(lambda: check(open_weights(str(tmp_path))))
    assert "not a zip archive" in message or name != "pytorch_model.bin"
    assert not (tmp_path / "boom").exists()


def test_damage(tmp_path: Path) -> None:
    file = to_mindformers(REFERENCE / "tiny_gqa", tmp_path / "x", "ckpt") / "model.ckpt"
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    message = refusal(read_ckpt, file, "weights.source")
    assert f"weights.source: {file}: not a readable MindSpore checkpoint (9 bytes are missing at the end)" in message
    file.write_bytes(whole + whole)
    assert "(model.tok_embeddings.embedding_weight occurs twice)" in refusal(read_ckpt, file, "weights.source")
    file.write_bytes(b"")
    assert f"{file}: an empty file" in refusal(read_ckpt, file, "weights.source")
    save(file.with_name("y.ckpt"), mindformers_weights(), enc_key=b"0123456789ABCDEF")
    assert "an encrypted one has to be decrypted first" in refusal(
        read_ckpt, file.with_name("y.ckpt"), "weights.source"
    )
