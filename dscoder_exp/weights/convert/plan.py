"""What a conversion will write: which tensor, cut how, in which file, under which name."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from dscoder_exp.schema.bounds import bytes_of_size
from dscoder_exp.schema.config import WeightsConfig
from dscoder_exp.storage.file_names import INDEX_FILE, WEIGHTS_FILE
from dscoder_exp.weights.formats.ckpt_file import ckpt_layout
from dscoder_exp.weights.formats.mindformers import MAP_FILE, mindformers_name
from dscoder_exp.weights.formats.safetensors_file import safetensors_layout
from dscoder_exp.weights.formats.tensor_io import Layout, size_of
from dscoder_exp.weights.names import parameter_shapes
from dscoder_exp.weights.native.layout import INPUTS, Cut, cut_of, file_name
from dscoder_exp.weights.source import WeightSource

Shaped = Mapping[str, tuple[str, tuple[int, ...]]]  # name -> dtype and shape


@dataclass(frozen=True)
class TargetTensor:
    """A tensor as the target holds it: rank r's slice, or all of it, lies in files[r]."""

    name: str
    dtype: str
    cut: Cut
    files: tuple[str, ...]

    def slices(self, rows: np.ndarray, first: int) -> Iterator[tuple[str, np.ndarray]]:
        """(file, its part) of rows that begin at row `first`."""
        if self.cut.axis == INPUTS:
            width = self.cut.slice_shape[1]
            for rank, file in enumerate(self.files):
                yield file, rows[:, rank * width : (rank + 1) * width]
            return
        height = self.cut.slice_shape[0]
        for rank in range(first // height, -(-(first + len(rows)) // height)):
            start = rank * height - first
            yield self.files[rank], rows[max(start, 0) : start + height]


@dataclass(frozen=True)
class ConversionPlan:
    """What a target will hold.

    Attributes:
        tensors: by Hugging Face's names.
        tp_size: the ranks of a native checkpoint; None: another format.
        index: the file that says which file holds a tensor; None: there is none.
        layout: of one file, from its tensors.
    """

    tensors: dict[str, TargetTensor]
    tp_size: int | None
    index: str | None
    layout: Callable[[Shaped], Layout]

    @property
    def bytes(self) -> int:
        """Of all weights."""
        return sum(size_of(item.cut.shape, item.dtype) for item in self.tensors.values())

    def layouts(self) -> dict[str, Layout]:
        """File -> what it will look like."""
        contents: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {}
        for rank in range(self.tp_size or 0):  # a rank's file is there even if it holds nothing
            contents[file_name(rank, self.tp_size or 0)] = {}
        for item in self.tensors.values():
            for file in item.files:
                contents.setdefault(file, {})[item.name] = (item.dtype, item.cut.slice_shape)
        return {file: self.layout(tensors) for file, tensors in contents.items()}


def plan(source: WeightSource, weights: WeightsConfig) -> ConversionPlan:
    """As the configuration wants it."""
    if weights.format == "native":
        return plan_native(source, weights.tensor)
    size = bytes_of_size(weights.max_shard_size) or 0
    if weights.format == "hf":
        return plan_hf(source, size)
    return plan_mindformers(source, weights.ckpt_format, size)


def plan_hf(source: WeightSource, max_shard_size: int) -> ConversionPlan:
    """Whole tensors, in files of at most `max_shard_size` bytes (a larger tensor has a file of its own)."""
    files = _shards(source, max_shard_size)
    index = INDEX_FILE if len(set(files.values())) > 1 else None
    return ConversionPlan(_whole(source, files, str), None, index, safetensors_layout)


def plan_mindformers(source: WeightSource, ckpt_format: str, max_shard_size: int) -> ConversionPlan:
    """MindSpore Transformers' names: one .ckpt, or safetensors as `plan_hf` cuts them, with the suite's own index."""
    if ckpt_format == "ckpt":
        files = dict.fromkeys(_names(source), "model.ckpt")
        return ConversionPlan(_whole(source, files, mindformers_name), None, None, ckpt_layout)
    tensors = _whole(source, _shards(source, max_shard_size), mindformers_name)
    return ConversionPlan(tensors, None, MAP_FILE, lambda shaped: safetensors_layout(shaped, "ms"))


def plan_native(source: WeightSource, tp_size: int) -> ConversionPlan:
    """Each tensor cut over `tp_size` ranks, a file a rank."""
    files = tuple(file_name(rank, tp_size) for rank in range(tp_size))
    shapes, tensors = parameter_shapes(source.config), {}
    for name in _names(source):
        cut = cut_of(name, shapes[name], tp_size)
        tensors[name] = TargetTensor(name, source.dtype(name), cut, files[: cut.num_slices])
    return ConversionPlan(tensors, tp_size, None, safetensors_layout)


def _names(source: WeightSource) -> list[str]:
    """In the model's order; weights.allow may have let pass that some are missing."""
    return [name for name in parameter_shapes(source.config) if name in source.shapes()]


def _whole(source: WeightSource, files: Mapping[str, str], rename: Callable[[str], str]) -> dict[str, TargetTensor]:
    shapes = parameter_shapes(source.config)
    return {
        name: TargetTensor(rename(name), source.dtype(name), Cut(shapes[name], None, 1), (file,))
        for name, file in files.items()
    }


def _shards(source: WeightSource, max_shard_size: int) -> dict[str, str]:
    """Tensor -> file, by transformers' rule and names."""
    shapes = parameter_shapes(source.config)
    numbers, number, size = {}, 1, 0
    for name in _names(source):
        more = size_of(shapes[name], source.dtype(name))
        if size and size + more > max_shard_size:
            number, size = number + 1, 0
        numbers[name] = number
        size += more
    if number == 1:
        return dict.fromkeys(numbers, WEIGHTS_FILE)
    return {name: f"model-{shard:05d}-of-{number:05d}.safetensors" for name, shard in numbers.items()}
