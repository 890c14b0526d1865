"""Conversion is bit exact for any shape, dtype, number of files and number of ranks."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weights_support import REFERENCE, SMOLLM2, TINY, refusal

from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.check import check
from dscoder_exp.weights.convert import conversion as module
from dscoder_exp.weights.convert.conversion import Conversion, ConvertedTokenizer, convert, disk_problem
from dscoder_exp.weights.convert.plan import ConversionPlan, TargetTensor, plan_hf, plan_mindformers, plan_native
from dscoder_exp.weights.formats.hf_config import to_hf
from dscoder_exp.weights.formats.safetensors_file import safetensors_layout
from dscoder_exp.weights.formats.tensor_io import NUMPY_DTYPES, TensorWriter
from dscoder_exp.weights.names import parameter_shapes
from dscoder_exp.weights.native.layout import Partition, partition_of
from dscoder_exp.weights.source import WeightSource, open_weights


@st.composite
def shapes(draw: st.DrawFn) -> LlamaConfig:
    heads = draw(st.sampled_from([1, 2, 4, 6]))
    size = 2 * draw(st.integers(1, 5))
    return dataclasses.replace(
        TINY,
        vocab_size=draw(st.integers(8, 70)),
        hidden_size=draw(st.integers(1, 40)),
        intermediate_size=draw(st.integers(1, 50)),
        num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=heads,
        num_key_value_heads=draw(st.sampled_from([n for n in (1, 2, 3, 6) if heads % n == 0])),
        head_dim=size,
        tie_word_embeddings=draw(st.booleans()),
    )


def random_bits(config: LlamaConfig, dtype: str, seed: int) -> dict[str, np.ndarray]:
    """Finite values with random bits, including subnormals and negative zero."""
    generator = np.random.default_rng(seed)
    unsigned = np.dtype(f"u{np.dtype(NUMPY_DTYPES[dtype]).itemsize}")
    found = {}
    for name, shape in parameter_shapes(config).items():
        bits = generator.integers(0, np.iinfo(unsigned).max, shape, unsigned, endpoint=True)
        exponent = unsigned.type(module.EXPONENT_MASKS[dtype])
        bits[(bits & exponent) == exponent] = 0
        found[name] = bits.view(NUMPY_DTYPES[dtype])
    return found


def write_hf(directory: Path, config: LlamaConfig, tensors: dict[str, np.ndarray], dtype: str) -> Path:
    directory.mkdir(parents=True)
    entries = {name: (dtype, values.shape) for name, values in tensors.items()}
    with TensorWriter(directory / "model.safetensors", safetensors_layout(entries)) as writer:
        for name, values in tensors.items():
            writer.write(name, values)
    (directory / "config.json").write_text(json.dumps(to_hf(config, dtype)))
    return directory


def run(
    source: WeightSource,
    target: Path,
    plan: ConversionPlan,
    tokenizer: ConvertedTokenizer | None = None,
    allow: Sequence[str] = (),
) -> Path:
    convert(Conversion(source, source.config, check(source, allow=allow), tokenizer, target, plan))
    return target


def to_native(source: Path, target: Path, tp_size: int) -> Path:
    opened = open_weights(str(source))
    return run(opened, target, plan_native(opened, tp_size))


def to_hugging_face(source: Path, target: Path, max_shard_size: int = 10**9) -> Path:
    opened = open_weights(str(source))
    return run(opened, target, plan_hf(opened, max_shard_size))


def to_mindformers(source: Path, target: Path, ckpt_format: str, max_shard_size: int = 10**9) -> Path:
    opened = open_weights(str(source))
    return run(opened, target, plan_mindformers(opened, ckpt_format, max_shard_size))


def stored(path: Path) -> dict[str, bytes]:
    """Name -> dtype and stored bytes of each tensor."""
    source = open_weights(str(path))
    assert check(source).complete
    return {
        name: source.dtype(name).encode() + b"".join(rows.tobytes() for rows in source.row_chunks(name))
        for name in source.shapes()
    }


FORMATS = ["native-1", "native-2", "native-4", "native-8", "hf", "safetensors", "ckpt"]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    config=shapes(),
    dtype=st.sampled_from(["BF16", "F16", "F32"]),
    formats=st.lists(st.sampled_from(FORMATS), min_size=1, max_size=4),
    max_shard_size=st.sampled_from([1, 3000, 10**9]),
    chunk=st.sampled_from([1, 100, 2**20]),
    piece=st.sampled_from([1, 250, 2**20]),
    seed=st.integers(0, 2**32),
)
def test_conversion_through_any_formats_is_bit_exact(
    tmp_path_factory: pytest.TempPathFactory,
    config: LlamaConfig,
    dtype: str,
    formats: list[str],
    max_shard_size: int,
    chunk: int,
    piece: int,
    seed: int,
) -> None:
    directory = tmp_path_factory.mktemp("convert")
    path = write_hf(directory / "hf", config, random_bits(config, dtype, seed), dtype)
    original = stored(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dscoder_exp.weights.formats.tensor_io.CHUNK_BYTES", chunk)
        patch.setattr("dscoder_exp.weights.formats.ckpt_file.MAX_VALUE_BYTES", piece)
        for number, name in enumerate(formats):
            target = directory / f"{number}-{name}"
            kind, _, count = name.partition("-")
            if kind == "native":
                path = to_native(path, target, int(count))
                assert len(list(path.glob("*.safetensors"))) == int(count)
            elif kind == "hf":
                path = to_hugging_face(path, target, max_shard_size)
            else:
                path = to_mindformers(path, target, kind, max_shard_size)
                assert open_weights(str(path)).kind == "mindformers"
            assert stored(path) == original
        back = to_hugging_face(path, directory / "back", max_shard_size)
    assert stored(back) == original
    assert open_weights(str(back)).config == config
    assert json.loads((back / "config.json").read_text()) == json.loads((directory / "hf/config.json").read_text())
    shutil.rmtree(directory)


def test_ranks_files_hold_their_slices(tmp_path: Path) -> None:
    """As in Megatron-LM, for sizes that are multiples of the ranks."""
    from safetensors.numpy import load_file

    tensors = random_bits(TINY, "F32", 1)
    path = to_native(write_hf(tmp_path / "hf", TINY, tensors, "F32"), tmp_path / "native", 2)
    ranks = [load_file(path / f"model-rank-0{rank}-of-02.safetensors") for rank in range(2)]
    for name, values in tensors.items():
        if values.ndim == 1:
            expected_slices = [values, None]
        else:
            axis = 1 if "o_proj" in name or "down_proj" in name else 0
            expected_slices = np.split(values, 2, axis)
        for rank, part in zip(ranks, expected_slices, strict=True):
            assert (name in rank) == (part is not None)
            if part is not None:
                assert rank[name].tobytes() == part.tobytes(), name


def test_indivisible_tensors_stay_whole() -> None:
    config = dataclasses.replace(TINY, num_key_value_heads=1, head_dim=6, vocab_size=97)
    cut = {name: partition_of(name, shape, 4) for name, shape in parameter_shapes(config).items()}
    assert cut["model.layers.0.self_attn.k_proj.weight"] == Partition((6, 64), None, 1)
    assert cut["lm_head.weight"] == Partition((97, 64), None, 1)
    assert cut["model.layers.0.self_attn.q_proj.weight"] == Partition((24, 64), 0, 4)
    assert cut["model.layers.0.self_attn.o_proj.weight"] == Partition((64, 24), 1, 4)


def test_shards_have_an_index_as_hugging_faces(tmp_path: Path) -> None:
    source = open_weights(str(REFERENCE / "tiny_gqa_sharded"))
    back = to_hugging_face(source.path, tmp_path / "x", max_shard_size=20_000)
    index = json.loads((back / "model.safetensors.index.json").read_text())
    sizes = [file.stat().st_size for file in sorted(back.glob("*.safetensors"))]
    assert len(sizes) > 2
    assert index["metadata"]["total_size"] == sum(
        np.prod(shape) * np.dtype(NUMPY_DTYPES[source.dtype(name)]).itemsize for name, shape in source.shapes().items()
    )
    assert stored(back) == stored(source.path)


def test_tokenizer_files_are_copied_with_the_weights(tmp_path: Path) -> None:
    source = shutil.copytree(REFERENCE / "tiny_gqa", tmp_path / "hf")
    kept = {"tokenizer.json": b'{"version": "1.0"}', "tokenizer_config.json": b"{ }"}
    for name, content in kept.items():
        (source / name).write_bytes(content)
    native = tmp_path / "native"
    to_native(source, native, 2)
    suite = to_mindformers(native, tmp_path / "suite", "ckpt")
    back = to_hugging_face(suite, tmp_path / "back")
    assert {name: (back / name).read_bytes() for name in kept} == kept


def test_a_gguf_is_converted_to_a_directory_of_float32(tmp_path: Path) -> None:
    source = open_weights(SMOLLM2)
    some = ("model.norm.", "model.layers.0.")
    plan = plan_hf(source, 10**9)
    tensors = {name: item for name, item in plan.tensors.items() if name.startswith(some)}
    built = source.tokenizer()
    assert built is not None
    run(source, tmp_path / "x", dataclasses.replace(plan, tensors=tensors), ConvertedTokenizer(built, None))
    copy = open_weights(str(tmp_path / "x"))
    assert copy.config == source.config
    assert copy.shapes().keys() == tensors.keys()
    for name in tensors:
        assert np.array_equal(copy.tensor(name), source.tensor(name)), name
    assert copy.template is not None
    assert source.template is not None
    assert copy.template.source == source.template.source
    read = copy.tokenizer()
    assert read is not None
    assert read.encode("def f(x):\n    return 12").ids == built.encode("def f(x):\n    return 12").ids


@pytest.mark.parametrize(("dtype", "bits"), [("BF16", 0x7F80), ("F16", 0xFE01), ("F32", 0x7FC00000)])
def test_tensors_with_nan_or_infinity_are_named(tmp_path: Path, dtype: str, bits: int) -> None:
    tensors = random_bits(TINY, dtype, 1)
    for name in ("model.norm.weight", "model.layers.1.mlp.up_proj.weight"):
        tensors[name].view(f"u{tensors[name].itemsize}").flat[-1] = bits
    source = open_weights(str(write_hf(tmp_path / "hf", TINY, tensors, dtype)))
    message = refusal(run, source, tmp_path / "x", plan_native(source, 2))
    assert "holds NaN or infinity in model.layers.1.mlp.up_proj.weight, model.norm.weight" in message
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_target_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    source = open_weights(str(REFERENCE / "tiny_gqa"))
    (tmp_path / "x").mkdir()
    run(source, tmp_path / "x", plan_hf(source, 10**9))  # an empty directory is accepted
    message = refusal(run, source, tmp_path / "x", plan_hf(source, 10**9))
    assert f"weights.target: {tmp_path / 'x'} exists already" in message


def test_a_small_disk_is_a_problem(tmp_path: Path) -> None:
    plan = plan_hf(open_weights(str(REFERENCE / "tiny_gqa")), 10**9)
    assert disk_problem(tmp_path / "not" / "there", plan) is None
    huge = {"x": TargetTensor("x", "F32", Partition((10**9, 10**6), None, 1), ("model.safetensors",))}
    problem = disk_problem(tmp_path / "not" / "there", dataclasses.replace(plan, tensors=huge))
    assert "weights.target: 4000000.0 GB are to be written, and the disk of" in str(problem)


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_weights(str(REFERENCE / "tiny_gqa"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TensorWriter, "write", full)
    message = refusal(run, source, tmp_path / "x", plan_hf(source, 10**9))
    assert f"weights.target: {tmp_path / 'x'} can't be written: No space left on device; it was removed" in message
    assert list(tmp_path.iterdir()) == []


def test_an_altered_slice_is_refused_with_its_tensor(tmp_path: Path) -> None:
    path = to_native(REFERENCE / "tiny_gqa", tmp_path / "x", 4)
    file = path / "model-rank-02-of-04.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    message = refusal(to_hugging_face, path, tmp_path / "back")
    assert f"{file}, lm_head.weight: its content has changed since it was written" in message
    assert [item.name for item in tmp_path.iterdir()] == ["x"]
    file.unlink()
    assert f"{file} is missing" in refusal(open_weights, str(path))


def test_a_killed_conversion_can_be_run_again(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from dscoder_exp.weights.convert.conversion import Conversion, convert
from dscoder_exp.weights.check import check
from dscoder_exp.weights.source import open_weights
from dscoder_exp.weights.convert.plan import plan_native
source, seen = open_weights({str(REFERENCE / "tiny_gqa")!r}), []
def count():
    seen.append(1)
    if len(seen) == 7:
        os.kill(os.getpid(), signal.SIGKILL)
target = Path({str(tmp_path / "x")!r})
convert(Conversion(source, source.config, check(source), None, target, plan_native(source, 2)), count)
"""
    before = {file: file.stat().st_mtime_ns for file in (REFERENCE / "tiny_gqa").iterdir()}
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == -9
    assert not (tmp_path / "x").exists()
    assert stored(to_native(REFERENCE / "tiny_gqa", tmp_path / "x", 2)) == stored(REFERENCE / "tiny_gqa")
    assert {file: file.stat().st_mtime_ns for file in (REFERENCE / "tiny_gqa").iterdir()} == before
    assert os.listdir(tmp_path) == ["x"]  # the partial directory of the killed process is gone
