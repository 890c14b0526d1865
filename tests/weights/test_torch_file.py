"""pytorch_model.bin, read without PyTorch: files that PyTorch wrote (make_torch_files.py), and hostile ones."""

import io
import os
import pickle
import pickletools
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from weights_support import EMPTY_MODEL, NO_PATH, REFERENCE, refusal, weights_config

from dscoder_exp.weights.check import check
from dscoder_exp.weights.convert.conversion import convert, open_conversion
from dscoder_exp.weights.formats.safetensors_file import read_header
from dscoder_exp.weights.formats.tensor_io import read_rows
from dscoder_exp.weights.formats.torch_file import read_torch
from dscoder_exp.weights.source import open_weights

FILES = REFERENCE / "torch_files"
VALUES = FILES / "values.safetensors"


@pytest.fixture(params=["whole", "sharded"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    without = "pytorch_model-*" if request.param == "whole" else "pytorch_model.bin"
    ignored = shutil.ignore_patterns(without, "*.safetensors", "legacy.bin", "nested.bin")
    return shutil.copytree(FILES, tmp_path / "model", ignore=ignored)


def test_a_model_equals_its_values(directory: Path) -> None:
    """Tensors at offsets, with strides, shared, expanded; of F64, F32, F16 and BF16; and parameters."""
    source = open_weights(str(directory))
    assert source.kind == "hf"
    assert str(check(source)).endswith(
        "all found; 1 ignored (lm_head.weight); BF16 -> F32: 1; F16 -> F32: 1; F64 -> F32: 1"
    )
    expected = read_header(VALUES, "x")
    for name, entry in expected.items():
        stored = np.concatenate(list(source.row_chunks(name)))
        assert source.dtype(name) == entry.dtype
        assert np.array_equal(stored, read_rows(VALUES, entry, 0, entry.shape[0])), name


def test_chunks_of_a_strided_tensor(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    source, name = open_weights(str(directory)), "model.layers.0.mlp.down_proj.weight"
    whole = source.tensor(name)
    monkeypatch.setattr("dscoder_exp.weights.formats.tensor_io.CHUNK_BYTES", 3 * 12 * 4)
    assert [len(rows) for rows in source.row_chunks(name)] == [3, 3, 2]
    assert np.array_equal(source.tensor(name), whole)


def test_it_becomes_safetensors(directory: Path, tmp_path: Path) -> None:
    convert(open_conversion(weights_config(directory, tmp_path / "out"), EMPTY_MODEL, NO_PATH))
    assert (tmp_path / "out" / "model.safetensors").is_file()
    written, expected = open_weights(str(tmp_path / "out")), open_weights(str(directory))
    assert all(np.array_equal(written.tensor(name), expected.tensor(name)) for name in written.shapes())


def test_safetensors_beside_it_are_preferred(directory: Path) -> None:
    values = load_file(REFERENCE / "tiny_gqa" / "model.safetensors")
    save_file({"model.norm.weight": values["model.norm.weight"]}, directory / "model.safetensors")
    assert list(open_weights(str(directory)).shapes()) == ["model.norm.weight"]


def test_a_missing_shard(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("pytorch_model.bin", "*-00002-*")
    copy = shutil.copytree(FILES, tmp_path / "model", ignore=ignored)
    message = refusal(open_weights, str(copy))
    assert "pytorch_model-00002-of-00002.bin is missing, named in pytorch_model.bin.index.json" in message


def test_files_of_an_older_pytorch_are_refused_with_what_converts_them() -> None:
    message = refusal(read_torch, FILES / "legacy.bin", "model.path")
    assert f"model.path: {FILES / 'legacy.bin'}: not a zip archive, as PyTorch writes since 1.6" in message
    assert 'torch.save(torch.load(f, map_location="cpu", weights_only=True), f)\' FILE' in message


def test_a_training_checkpoint_is_refused_by_what_it_holds() -> None:
    assert "('model' is not a tensor)" in refusal(read_torch, FILES / "nested.bin", "model.path")


def test_a_pytorch_file_alone_has_no_shape(tmp_path: Path) -> None:
    for name in ("model.pt", "x.bin", "y.pth"):
        (tmp_path / name).write_bytes(b"")
        assert "a PyTorch file, without the model's shape" in refusal(open_weights, str(tmp_path / name))


class Runs:
    """Unpickling this would run a command."""

    def __reduce__(self):
        return os.system, ("touch ran",)


class Sets:
    """Unpickling this would set an attribute of what the name means."""

    def __init__(self, target: str) -> None:
        self.target = target


def archive(path: Path, content: bytes, **records: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content)
        for name, record in records.items():
            file.writestr(f"archive/{name}", record)
    return path


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (pickle.dumps({"x": Runs()}), "it needs posix.system, which is no tensor"),
        (pickle.dumps({"x": np.ones(3)}), "it needs numpy"),
        (b"cbuiltins\neval\n(V1+1\ntR.", "it needs builtins.eval, which is no tensor"),
        (b"ctorch._utils\n_rebuild_tensor_v3\n.", "it needs torch._utils._rebuild_tensor_v3"),
        (b"ctorch\nFloatStorage\n(tR.", "not callable"),
        (pickle.dumps([1, 2]), "no state_dict"),
        (pickle.dumps({}), "no state_dict"),
        (pickle.dumps({3: 4}), "3 is not a tensor"),
        (b"(dVx\nctorch._utils\n_rebuild_tensor_v2\n(I0\nI0\n(I2\nt(I1\ntI00\nNtRs.", "a tensor without a storage"),
        (b"garbage", "not a readable file of PyTorch weights"),
    ],
)
def test_what_is_no_state_dict_is_refused_and_not_run(tmp_path: Path, monkeypatch, content: bytes, why: str) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(read_torch, archive(tmp_path / "x.bin", content), "model.path")
    assert why in message
    assert not (tmp_path / "ran").exists()


def state_dict(shape: bytes, strides: bytes, offset: bytes = b"I0\n") -> bytes:
    """A pickle of one tensor "x" over the float storage "0"."""
    storage = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI4\ntQ"
    return b"(dVx\nctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + strides + b"I00\nNtRs."


def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    right = state_dict(b"(I2\nI2\nt", b"(I2\nI1\nt")
    file = archive(tmp_path / "x.bin", right, **{"data/0": np.arange(4, dtype="<f4").tobytes()})
    entry = read_torch(file, "k")["x"]
    assert read_rows(file, entry, 0, 2).tolist() == [[0.0, 1.0], [2.0, 3.0]]
    wrong = {
        state_dict(b"(I2\nI2\nt", b"(I2\nI1\nt", b"I1\n"): "has 16 bytes, fewer than a tensor of it needs",
        state_dict(b"(I2\nI2\nt", b"(I-2\nI1\nt"): "a tensor of shape (2, 2) with strides (-2, 1) at 0",
        state_dict(b"(I2\nt", b"(I1\nI1\nt"): "a tensor without a storage",
    }
    for content, why in wrong.items():
        archive(file, content, **{"data/0": bytes(16)})
        assert why in refusal(read_torch, file, "k")
    archive(file, right)
    assert "data/0" in refusal(read_torch, file, "k")


def test_big_endian_and_compressed_files_are_refused(tmp_path: Path) -> None:
    right = state_dict(b"(I4\nt", b"(I1\nt")
    file = archive(tmp_path / "x.bin", right, **{"data/0": bytes(16), "byteorder": b"big"})
    assert "its byte order differs from this machine's" in refusal(read_torch, file, "k")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("archive/data.pkl", right)
        packed.writestr("archive/data/0", bytes(16))
    assert "archive/data/0 is compressed" in refusal(read_torch, file, "k")


def test_the_reference_files_need_the_names_that_are_known() -> None:
    """What PyTorch itself wrote, so that the list isn't longer than it has to be."""
    with zipfile.ZipFile(FILES / "pytorch_model.bin") as file:
        name = next(item for item in file.namelist() if item.endswith("data.pkl"))
        opcodes = pickletools.genops(io.BytesIO(file.read(name)))
    found = {arg for opcode, arg, _ in opcodes if opcode.name == "GLOBAL"}
    assert {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"} <= found
