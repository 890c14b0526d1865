"""Weights, LoRA's factors and moments that one layout of ranks writes are read by any other, bit by bit."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dscoder_exp.parallel.buckets import Bucket, FlatShard
from dscoder_exp.schema.config import MODULES
from dscoder_exp.schema.errors import Refused
from dscoder_exp.schema.llama import LlamaConfig, Lora
from dscoder_exp.training.moments import StoredMoments, moments_file, write_moments
from dscoder_exp.weights.generation_config import GenerationConfig
from dscoder_exp.weights.names import factor_shapes, parameter_shapes
from dscoder_exp.weights.native.layout import indivisible_sizes, rank_slice
from dscoder_exp.weights.native.writer import write_model_files, write_weights
from dscoder_exp.weights.source import open_weights

LORA = Lora(3, 6.0, 0.0, MODULES)


@dataclass(frozen=True)
class Layout:
    tensor: int
    replicas: int

    @property
    def ranks(self) -> int:
        return self.tensor * self.replicas


def config_of(heads: int, key_heads: int, *, tied: bool) -> LlamaConfig:
    return LlamaConfig(48, 12, 24, 2, heads, key_heads, 8, 64, 1e-6, 1e4, None, tied, 0, 1, 2)


def drawn(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def owned_by(rank: int, layout: Layout, config: LlamaConfig, shapes: dict[str, tuple[int, ...]]) -> list[FlatShard]:
    """The rank's shards of one bucket of all tensors, so that they begin and end anywhere in a tensor."""
    parts = {
        name: rank_slice(name, shape, config, rank % layout.tensor, layout.tensor) for name, shape in shapes.items()
    }
    held_shapes = tuple(parts[name].shape(shape) for name, shape in shapes.items())
    bucket = Bucket(tuple(shapes), held_shapes, matrices=True, copies=1, partial=1)
    return bucket.shards(rank // layout.tensor, layout.replicas)


def values_of(rank: int, layout: Layout, config: LlamaConfig, arrays: dict[str, np.ndarray], owned: list[FlatShard]):
    tp_size = layout.tensor
    parts = {
        name: rank_slice(name, array.shape, config, rank % tp_size, tp_size).take(array)
        for name, array in arrays.items()
    }
    return [parts[shard.name].reshape(-1)[shard.first : shard.last] for shard in owned]


def write(directory: Path, layout: Layout, config: LlamaConfig, moments: list[dict[str, np.ndarray]]) -> dict:
    shapes, files = {name: array.shape for name, array in moments[0].items()}, {}
    for rank in range(layout.ranks):
        owned = owned_by(rank, layout, config, shapes)
        pairs = list(zip(*(values_of(rank, layout, config, which, owned) for which in moments), strict=True))
        name = moments_file(rank, layout.ranks)
        files[name] = write_moments(directory / name, rank % layout.tensor, owned, pairs)
    return {"ways": layout.tensor, "files": files}


layouts = st.builds(Layout, st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 3, 5]))


@settings(max_examples=40)
@given(layouts, layouts, st.sampled_from([(4, 4), (4, 2), (4, 1), (8, 2)]), st.booleans(), st.booleans())
@example(Layout(4, 2), Layout(1, 1), (4, 1), True, False)
@example(Layout(1, 1), Layout(4, 3), (4, 2), False, True)
def test_moments_of_any_layout_are_read_by_any_other(before, after, heads, tied, lora):
    config = config_of(*heads, tied=tied)
    assert not indivisible_sizes(config, before.tensor)
    shapes = factor_shapes(config, LORA) if lora else parameter_shapes(config)
    moments = [drawn(shapes, seed) for seed in (1, 2)]
    with TemporaryDirectory() as name:
        stored = StoredMoments(Path(name), write(Path(name), before, config, moments), config, shapes)
        for rank in range(after.ranks):
            owned = owned_by(rank, after, config, shapes)
            into = [[np.full(shard.last - shard.first, np.nan, np.float32) for shard in owned] for _ in range(2)]
            stored.fill(rank % after.tensor, after.tensor, owned, into)
            for which, arrays in zip(moments, into, strict=True):
                for found, value in zip(arrays, values_of(rank, after, config, which, owned), strict=True):
                    assert found.tobytes() == value.tobytes()


@settings(max_examples=20)
@given(st.sampled_from([1, 2, 4]), st.sampled_from([(4, 4), (4, 2), (4, 1)]), st.booleans())
def test_weights_that_tensor_ranks_wrote_are_read_whole(tp_size, heads, tied):
    config = config_of(*heads, tied=tied)
    arrays = drawn(parameter_shapes(config), 3)

    def of_rank(rank):
        return [(n, rank_slice(n, array.shape, config, rank, tp_size).take(array)) for n, array in arrays.items()]

    with TemporaryDirectory() as name:
        target = Path(name)
        hashes = [write_weights(target, config, of_rank(rank), rank, tp_size) for rank in range(tp_size)]
        beside = {"tokenizer": None, "special_tokens": {}, "template": None, "generation": GenerationConfig()}
        write_model_files(target, config, hashes, **beside, lineage={}, tp_size=tp_size)
        source = open_weights(str(target))
        assert source.shapes() == parameter_shapes(config)
        for tensor, array in arrays.items():
            assert source.tensor(tensor).tobytes() == array.tobytes()


def test_sizes_that_tensor_ranks_do_not_divide_are_named():
    config = config_of(4, 2, tied=False)
    assert indivisible_sizes(config, 2) == []
    assert indivisible_sizes(config, 3) == ["num_attention_heads 4", "num_key_value_heads 2"]
    assert indivisible_sizes(config, 16)[0] == "intermediate_size 24"


def refusal(call, *arguments: object) -> str:
    with pytest.raises(Refused) as caught:
        call(*arguments)
    return str(caught.value)


def test_damaged_and_missing_shards_are_refused(tmp_path: Path) -> None:
    config = config_of(4, 2, tied=True)
    shapes = parameter_shapes(config)
    record = write(tmp_path, Layout(2, 2), config, [drawn(shapes, seed) for seed in (1, 2)])
    owned = [FlatShard("model.norm.weight", 0, 12)]
    into = [[np.empty(12, np.float32)] for _ in range(2)]
    file = tmp_path / "optimizer-rank-03-of-04.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    stored = StoredMoments(tmp_path, record, config, shapes)
    assert "second.model.norm.weight: its content has changed since it was written (SHA-256 differs)" in refusal(
        stored.fill, 0, 1, owned, into
    )
    file.write_bytes(whole)
    stored = StoredMoments(tmp_path, {**record, "files": {file.name: record["files"][file.name]}}, config, shapes)
    assert "lacks a part of first.model.norm.weight" in refusal(stored.fill, 0, 1, owned, into)
