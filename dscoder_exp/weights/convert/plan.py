"""Plan a conversion: name, partition and files of every tensor that is written."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from dscoder_exp.schema.bounds import parse_size
from dscoder_exp.schema.config import WeightsConfig
from dscoder_exp.storage.file_names import INDEX_FILE, WEIGHTS_FILE
from dscoder_exp.weights.formats.ckpt_file import ckpt_layout
from dscoder_exp.weights.formats.mindformers import MAP_FILE, mindformers_name
from dscoder_exp.weights.formats.safetensors_file import safetensors_layout
from dscoder_exp.weights.formats.tensor_io import Layout, size_of
from dscoder_exp.weights.names import parameter_shapes
from dscoder_exp.weights.native.layout import INPUTS, Partition, file_name, partition_of
from dscoder_exp.weights.source import WeightSource

TensorSpecs = Mapping[str, tuple[str, tuple[int, ...]]]  # name -> dtype and shape


@dataclass(frozen=True)
class TargetTensor:
    """A tensor in the target: slice i of its partition is written to files[i]."""

    name: str
    dtype: str
    partition: Partition
    files: tuple[str, ...]

    def slices(self, rows: np.ndarray, first: int) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (file, its part of `rows`), for rows that begin at row `first` of the tensor."""
        if self.partition.axis == INPUTS:
            width = self.partition.slice_shape[1]
            for rank, file in enumerate(self.files):
                yield file, rows[:, rank * width : (rank + 1) * width]
            return
        height = self.partition.slice_shape[0]
        for rank in range(first // height, -(-(first + len(rows)) // height)):
            start = rank * height - first
            yield self.files[rank], rows[max(start, 0) : start + height]


@dataclass(frozen=True)
class ConversionPlan:
    """What the target will hold.

    Attributes:
        tensors: by Hugging Face's names.
        tp_size: number of tensor-parallel ranks of a native checkpoint; None: another format.
        index: name of the file that maps tensors to files; None: no such file.
        layout: builds a file's Layout from its tensors.
    """

    tensors: dict[str, TargetTensor]
    tp_size: int | None
    index: str | None
    layout: Callable[[TensorSpecs], Layout]

    @property
    def bytes(self) -> int:
        """Total size of the tensors."""
        return sum(size_of(item.partition.shape, item.dtype) for item in self.tensors.values())

    def layouts(self) -> dict[str, Layout]:
        """File name -> Layout."""
        contents: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {}
        for rank in range(self.tp_size or 0):  # each rank has a file, even if it holds no tensor
            contents[file_name(rank, self.tp_size or 0)] = {}
        for item in self.tensors.values():
            for file in item.files:
                contents.setdefault(file, {})[item.name] = (item.dtype, item.partition.slice_shape)
        return {file: self.layout(tensors) for file, tensors in contents.items()}


def plan(source: WeightSource, weights: WeightsConfig) -> ConversionPlan:
    """Plan a conversion to the format of the `weights` group."""
    if weights.format == "native":
        return plan_native(source, weights.tensor)
    size = parse_size(weights.max_shard_size) or 0
    if weights.format == "hf":
        return plan_hf(source, size)
    return plan_mindformers(source, weights.ckpt_format, size)


def plan_hf(source: WeightSource, max_shard_size: int) -> ConversionPlan:
    """Hugging Face: whole tensors, in files of at most `max_shard_size` bytes (a larger tensor has its own file)."""
    files = _shard_files(source, max_shard_size)
    index = INDEX_FILE if len(set(files.values())) > 1 else None
    return ConversionPlan(_unsliced(source, files, str), None, index, safetensors_layout)


def plan_mindformers(source: WeightSource, ckpt_format: str, max_shard_size: int) -> ConversionPlan:
    """MindSpore Transformers: its names, in one .ckpt file, or in safetensors shards as in `plan_hf` with its index."""
    if ckpt_format == "ckpt":
        files = dict.fromkeys(_stored_names(source), "model.ckpt")
        return ConversionPlan(_unsliced(source, files, mindformers_name), None, None, ckpt_layout)
    tensors = _unsliced(source, _shard_files(source, max_shard_size), mindformers_name)
    return ConversionPlan(tensors, None, MAP_FILE, lambda shaped: safetensors_layout(shaped, "ms"))


def plan_native(source: WeightSource, tp_size: int) -> ConversionPlan:
    """Native checkpoint: tensors sliced for `tp_size` tensor-parallel ranks, one file per rank."""
    files = tuple(file_name(rank, tp_size) for rank in range(tp_size))
    shapes, tensors = parameter_shapes(source.config), {}
    for name in _stored_names(source):
        partition = partition_of(name, shapes[name], tp_size)
        tensors[name] = TargetTensor(name, source.dtype(name), partition, files[: partition.num_slices])
    return ConversionPlan(tensors, tp_size, None, safetensors_layout)


def _stored_names(source: WeightSource) -> list[str]:
    """Names of the stored tensors, in the model's order; some may be missing, by weights.allow."""
    return [name for name in parameter_shapes(source.config) if name in source.shapes()]


def _unsliced(source: WeightSource, files: Mapping[str, str], rename: Callable[[str], str]) -> dict[str, TargetTensor]:
    shapes = parameter_shapes(source.config)
    return {
        name: TargetTensor(rename(name), source.dtype(name), Partition(shapes[name], None, 1), (file,))
        for name, file in files.items()
    }


def _shard_files(source: WeightSource, max_shard_size: int) -> dict[str, str]:
    """Tensor name -> file, sharded and named as transformers does."""
    shapes = parameter_shapes(source.config)
    numbers, number, size = {}, 1, 0
    for name in _stored_names(source):
        more = size_of(shapes[name], source.dtype(name))
        if size and size + more > max_shard_size:
            number, size = number + 1, 0
        numbers[name] = number
        size += more
    if number == 1:
        return dict.fromkeys(numbers, WEIGHTS_FILE)
    return {name: f"model-{shard:05d}-of-{number:05d}.safetensors" for name, shard in numbers.items()}
