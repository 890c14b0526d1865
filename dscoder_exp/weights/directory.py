"""Directories of safetensors files: Hugging Face's (one file or shards), or a native checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.storage.file_names import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    TOKENIZER_FILE,
    TORCH_FILE,
    WEIGHT_FILES,
    WEIGHTS_FILE,
)
from dscoder_exp.storage.json_files import read_json
from dscoder_exp.weights.chat_template import ModelTemplate, recorded_template, template_in
from dscoder_exp.weights.formats.hf_config import end_tokens, from_hf
from dscoder_exp.weights.formats.safetensors_file import read_header
from dscoder_exp.weights.formats.tensor_io import Entry, gather, read_rows, row_ranges
from dscoder_exp.weights.formats.torch_file import read_torch
from dscoder_exp.weights.generation_config import GenerationConfig, generation_in
from dscoder_exp.weights.native.layout import INPUTS, Partition, file_name
from dscoder_exp.weights.native.manifest import COPY_AGAIN, content_changed, read_manifest
from dscoder_exp.weights.tokenizer import Fingerprint, fingerprint, read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class StoredSlice(NamedTuple):
    """Location of a tensor, or of one rank's slice of it, and its SHA-256 if one was recorded."""

    file: Path
    entry: Entry
    sha256: str | None = None


class SlicedTensor(NamedTuple):
    """A tensor's partition, and the locations of its slices in order."""

    partition: Partition
    slices: Sequence[StoredSlice]


def unsliced(file: Path, entry: Entry) -> SlicedTensor:
    """The SlicedTensor of a tensor that is stored whole."""
    return SlicedTensor(Partition(entry.shape, None, 1), [StoredSlice(file, entry)])


class StoredTensors:
    """Base class of the sources of all formats but GGUF; headers and rows are read on request."""

    def __init__(
        self, path: Path, key: str, config: LlamaConfig, template: ModelTemplate | None, generation: GenerationConfig
    ) -> None:
        self.path, self.config, self.template, self.generation = path, config, template, generation
        self.directory = path if path.is_dir() else path.parent
        self._key = key

    @cached_property
    def _tensors(self) -> dict[str, SlicedTensor]:
        """Tensors by Hugging Face's names; a tensor without one keeps its own."""
        raise NotImplementedError

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.partition.shape for name, tensor in self._tensors.items()}

    def dtype(self, name: str) -> str:
        return self._tensors[name].slices[0].entry.dtype

    def stored_dtype(self, name: str) -> str:
        return self.dtype(name)

    def row_chunks(self, name: str) -> Iterator[np.ndarray]:
        partition, slices = self._tensors[name]
        if partition.axis == INPUTS:
            columns = [self._rows(part, name, row_ranges(partition.shape, part.entry.dtype)) for part in slices]
            yield from (np.concatenate(blocks, axis=1) for blocks in zip(*columns, strict=True))
            return
        for part in slices:
            yield from self._rows(part, name, row_ranges(part.entry.shape, part.entry.dtype))

    def _rows(self, part: StoredSlice, name: str, ranges: Iterator[tuple[int, int]]) -> Iterator[np.ndarray]:
        """Yield a slice's rows. Raises Refused after the last one if its SHA-256 was recorded and differs."""
        digest = hashlib.sha256()
        for first, last in ranges:
            rows = read_rows(part.file, part.entry, first, last)
            if part.sha256 is not None:
                digest.update(rows)  # type: ignore[arg-type]  # an array is a buffer
            yield rows
        if part.sha256 not in (None, digest.hexdigest()):
            raise Refused([content_changed(self._key, f"{part.file}, {name}")])

    def tensor(self, name: str) -> np.ndarray:
        return gather(self.row_chunks(name), self._tensors[name].partition.shape, self.dtype(name))

    def tokenizer(self) -> Tokenizer | None:
        file = self.directory / TOKENIZER_FILE
        return read_tokenizer(file, self._key) if file.is_file() else None

    def fingerprint(self) -> Fingerprint | None:
        found = self.tokenizer()
        return found and fingerprint(found)

    def other_tokenizer(self, given: Tokenizer) -> str | None:
        ours, theirs = fingerprint(given), self.fingerprint()
        if theirs is None or ours.sha256 == theirs.sha256:
            return None
        return f"({ours}) is not the tokenizer of {self.path} ({theirs})"


class HuggingFaceDirectory(StoredTensors):
    """config.json with model.safetensors, or with model.safetensors.index.json and its shards; or pytorch_model.bin."""

    kind: Literal["hf"] = "hf"

    def __init__(self, path: Path, key: str) -> None:
        file = path / CONFIG_FILE
        values = read_json(file, key)
        config = from_hf(values, str(file))
        generation = generation_in(path, end_tokens(values, str(file)), key)
        super().__init__(path, key, config, template_in(path, key), generation)
        self._whole, self._index = _weight_files(path, key)
        self._files = {}
        if not (path / self._whole).is_file():
            weight_map = read_json(path / self._index, key).get("weight_map")
            self._files = checked_weight_map(path, self._index, weight_map, key)

    @cached_property
    def _tensors(self) -> dict[str, SlicedTensor]:
        read = read_torch if self._whole == TORCH_FILE else read_header
        if not self._files:
            file = self.path / self._whole
            return {name: unsliced(file, entry) for name, entry in read(file, self._key).items()}
        located = locate_tensors(self.path, self._files, self._index, self._key, read)
        return {name: unsliced(*location) for name, location in located.items()}


class NativeDirectory(StoredTensors):
    """A native checkpoint (native/writer.py): whole tensors, or slices for tensor-parallel ranks."""

    kind: Literal["native"] = "native"

    def __init__(self, path: Path, key: str) -> None:
        self._record = read_manifest(path, key)
        template = recorded_template(path, self._record.template, key)
        generation = generation_in(path, self._record.end_tokens, key)
        super().__init__(path, key, self._record.config, template, generation)

    @cached_property
    def _tensors(self) -> dict[str, SlicedTensor]:
        tp_size = self._record.tp_size
        files = [self.path / file_name(rank, tp_size) for rank in range(tp_size)]
        headers = [read_header(file, self._key) for file in files]
        found = {}
        for name, recorded in self._record.tensors.items():
            partition = recorded.partition
            slices = []
            for file, header, sha256 in zip(files, headers, recorded.hashes, strict=False):
                entry = header.get(name)
                if entry is None or (entry.shape, entry.dtype) != (partition.slice_shape, recorded.dtype):
                    what = f"{self.path}: {name} is missing or differs from what {CHECKPOINT_FILE} records"
                    raise refuse(self._key, what, COPY_AGAIN)
                slices.append(StoredSlice(file, entry, sha256))
            found[name] = SlicedTensor(partition, slices)
        return found

    def fingerprint(self) -> Fingerprint | None:
        return self._record.tokenizer


def locate_tensors(
    directory: Path,
    files: dict[str, str],
    index: str,
    key: str,
    read: Callable[[Path, str], dict[str, Entry]] = read_header,
) -> dict[str, tuple[Path, Entry]]:
    """Tensor name -> its file and Entry.

    Args:
        files: tensor name -> file, from the index.
        index: the index's file name, for error messages.
        read: gives the entries of a file.

    Raises:
        Refused: a file is damaged, or its tensors are not those in the index.
    """
    headers = {file: read(directory / file, key) for file in sorted(set(files.values()))}
    absent = [f"{name} in {file}" for name, file in files.items() if name not in headers[file]]
    if absent:
        what = f"{directory / index} names {len(absent)} tensors that the files lack, such as {absent[0]}"
        raise refuse(key, what, COPY_AGAIN)
    unlisted = [f"{name} in {file}" for file, header in headers.items() for name in header if files.get(name) != file]
    if unlisted:
        what = f"{directory / index} lacks {len(unlisted)} tensors of the files, such as {unlisted[0]}"
        raise refuse(key, what, COPY_AGAIN)
    return {name: (directory / file, headers[file][name]) for name, file in files.items()}


def checked_weight_map(directory: Path, index: str, files: Any, key: str) -> dict[str, str]:
    """Check an index's map of tensor name -> file, and return it.

    Raises:
        Refused: `files` is no such map, a file is missing, or its name leads out of the directory.
    """
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise refuse(str(directory / index), "has no map of tensors to files", COPY_AGAIN)
    names = sorted(set(files.values()))
    if outside := [name for name in names if Path(name).name != name]:
        raise refuse(str(directory / index), f"names {outside[0]!r}, which is not a file name", COPY_AGAIN)
    if missing := [name for name in names if not (directory / name).is_file()]:
        raise Refused(
            [Problem(key, f"{directory / name} is missing, named in {index}", COPY_AGAIN) for name in missing]
        )
    return files


def _weight_files(path: Path, key: str) -> tuple[str, str]:
    """The names of the whole file and of the index of the shards, one of which is there."""
    for names in WEIGHT_FILES:
        if any((path / name).is_file() for name in names):
            return names
    what = f"{path} has a config.json but no weights"
    raise refuse(key, what, f"put {WEIGHTS_FILE} (or its shards with {INDEX_FILE}) there")
