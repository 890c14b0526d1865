"""A directory of safetensors: Hugging Face's (one file or shards), or a native checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.storage.file_names import (
    CHAT_TEMPLATE_FILE,
    CHECKPOINT_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
)
from dscoder_exp.storage.json_files import read_json
from dscoder_exp.weights.chat_template import recognise
from dscoder_exp.weights.formats.hf_config import from_hf
from dscoder_exp.weights.formats.safetensors_file import read_header
from dscoder_exp.weights.formats.tensor_io import Entry, chunks, gather, read_rows
from dscoder_exp.weights.native.layout import INPUTS, Cut, file_name
from dscoder_exp.weights.native.manifest import COPY_AGAIN, altered, read_manifest
from dscoder_exp.weights.tokenizer import Fingerprint, fingerprint, read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Slice(NamedTuple):
    """Where a tensor, or a rank's part of it, lies; its SHA-256 where one was recorded."""

    file: Path
    entry: Entry
    sha256: str | None = None


class Slices(NamedTuple):
    """How a tensor is cut, and its slices in order."""

    cut: Cut
    parts: Sequence[Slice]


def whole(file: Path, entry: Entry) -> Slices:
    """A tensor that isn't cut."""
    return Slices(Cut(entry.shape, None, 1), [Slice(file, entry)])


class StoredTensors:
    """What all kinds of files but GGUF share: headers are read when asked for, tensors by their rows."""

    def __init__(self, path: Path, key: str, config: LlamaConfig, template: str | None) -> None:
        self.path, self.config, self.template = path, config, template
        self.beside = path if path.is_dir() else path.parent
        self._key = key

    @property
    def chat_template(self) -> str | None:
        return _chat_template(self.beside, self._key)

    @cached_property
    def _slices(self) -> dict[str, Slices]:
        """By Hugging Face's names; what has none keeps its own."""
        raise NotImplementedError

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: cut.shape for name, (cut, _) in self._slices.items()}

    def dtype(self, name: str) -> str:
        return self._slices[name].parts[0].entry.dtype

    def stored_as(self, name: str) -> str:
        return self.dtype(name)

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        cut, parts = self._slices[name]
        if cut.axis == INPUTS:
            columns = [self._rows(part, name, chunks(cut.shape, part.entry.dtype)) for part in parts]
            yield from (np.concatenate(slices, axis=1) for slices in zip(*columns, strict=True))
            return
        for part in parts:
            yield from self._rows(part, name, chunks(part.entry.shape, part.entry.dtype))

    def _rows(self, part: Slice, name: str, runs: Iterator[tuple[int, int]]) -> Iterator[np.ndarray]:
        """A slice's rows. Raises Refused after the last one where they are not those whose hash was recorded."""
        digest = hashlib.sha256()
        for first, last in runs:
            rows = read_rows(part.file, part.entry, first, last)
            if part.sha256 is not None:
                digest.update(rows)  # type: ignore[arg-type]  # an array is a buffer
            yield rows
        if part.sha256 not in (None, digest.hexdigest()):
            raise Refused([altered(self._key, f"{part.file}, {name}")])

    def tensor(self, name: str) -> np.ndarray:
        return gather(self.pieces(name), self._slices[name].cut.shape, self.dtype(name))

    def tokenizer(self) -> Tokenizer | None:
        file = self.beside / TOKENIZER_FILE
        return read_tokenizer(file, self._key) if file.is_file() else None

    def fingerprint(self) -> Fingerprint | None:
        found = self.tokenizer()
        return found and fingerprint(found)


class HuggingFaceDirectory(StoredTensors):
    """config.json with model.safetensors, or with model.safetensors.index.json and its shards."""

    kind: Literal["hf"] = "hf"

    def __init__(self, path: Path, key: str) -> None:
        config = from_hf(read_json(path / CONFIG_FILE, key), str(path / CONFIG_FILE))
        super().__init__(path, key, config, None)
        self.template = recognise(self.chat_template)
        self._files = _weight_files(path, key)

    @cached_property
    def _slices(self) -> dict[str, Slices]:
        return {name: whole(*place) for name, place in places(self.path, self._files, INDEX_FILE, self._key).items()}


class NativeDirectory(StoredTensors):
    """What checkpoint.py wrote: whole, or cut over tensor-parallel ranks."""

    kind: Literal["native"] = "native"

    def __init__(self, path: Path, key: str) -> None:
        self._record = read_manifest(path, key)
        super().__init__(path, key, self._record.config, self._record.template)

    @cached_property
    def _slices(self) -> dict[str, Slices]:
        tp_size = self._record.tp_size
        files = [self.path / file_name(rank, tp_size) for rank in range(tp_size)]
        headers = [read_header(file, self._key) for file in files]
        found = {}
        for name, (dtype, cut, hashes) in ((n, (t.dtype, t.cut, t.hashes)) for n, t in self._record.tensors.items()):
            parts = []
            for file, header, sha256 in zip(files, headers, hashes, strict=False):
                entry = header.get(name)
                if entry is None or (entry.shape, entry.dtype) != (cut.slice_shape, dtype):
                    what = f"{self.path}: the files don't hold {name} as {CHECKPOINT_FILE} says"
                    raise refuse(self._key, what, COPY_AGAIN)
                parts.append(Slice(file, entry, sha256))
            found[name] = Slices(cut, parts)
        return found

    def fingerprint(self) -> Fingerprint | None:
        return self._record.tokenizer


def places(directory: Path, files: dict[str, str], index: str, key: str) -> dict[str, tuple[Path, Entry]]:
    """Where each tensor lies.

    Args:
        files: tensor -> file, as the index has it; empty where model.safetensors holds all.
        index: the index's name.

    Raises:
        Refused: a file is damaged, or lacks what the index says.
    """
    if not files:
        file = directory / WEIGHTS_FILE
        return {name: (file, entry) for name, entry in read_header(file, key).items()}
    headers = {file: read_header(directory / file, key) for file in sorted(set(files.values()))}
    lost = [f"{name} in {file}" for name, file in files.items() if name not in headers[file]]
    if lost:
        what = f"{directory / index} names {len(lost)} tensors that are not there, such as {lost[0]}"
        raise refuse(key, what, COPY_AGAIN)
    stray = [f"{name} in {file}" for file, header in headers.items() for name in header if files.get(name) != file]
    if stray:
        what = f"{directory / index} leaves out {len(stray)} tensors that are there, such as {stray[0]}"
        raise refuse(key, what, COPY_AGAIN)
    return {name: (directory / file, headers[file][name]) for name, file in files.items()}


def index_files(directory: Path, index: str, files: Any, key: str) -> dict[str, str]:
    """An index's map of tensor -> file, checked: every file is there.

    Raises:
        Refused: no such map, a file that is missing, or a name that leads out of the directory.
    """
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise refuse(str(directory / index), "maps no tensors to files", COPY_AGAIN)
    names = sorted(set(files.values()))
    if outside := [name for name in names if Path(name).name != name]:
        raise refuse(str(directory / index), f"names {outside[0]!r}, which is no file's name", COPY_AGAIN)
    if missing := [name for name in names if not (directory / name).is_file()]:
        raise Refused(
            [Problem(key, f"{directory / name} is missing, named in {index}", COPY_AGAIN) for name in missing]
        )
    return files


def _weight_files(path: Path, key: str) -> dict[str, str]:
    """Tensor name -> shard; empty where one file holds all."""
    if (path / WEIGHTS_FILE).is_file():
        return {}
    if (path / INDEX_FILE).is_file():
        return index_files(path, INDEX_FILE, read_json(path / INDEX_FILE, key).get("weight_map"), key)
    if any(path.glob("pytorch_model*.bin")):
        what = f"{path} holds pytorch_model.bin, a pickle, which would run code when it is read"
        remedy = "take the model's safetensors; or, where PyTorch is, AutoModelForCausalLM.from_pretrained(DIR)"
        raise refuse(key, what, f"{remedy}.save_pretrained(NEW_DIR) writes them")
    what = f"{path} has a config.json but no weights"
    raise refuse(key, what, f"put {WEIGHTS_FILE} (or its shards with {INDEX_FILE}) there")


def _chat_template(path: Path, key: str) -> str | None:
    file = path / CHAT_TEMPLATE_FILE
    if file.is_file():
        try:
            return file.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise refuse(key, f"{file}: not UTF-8 ({error})", "mend or copy the file again") from error
    file = path / "tokenizer_config.json"
    template: Any = read_json(file, key).get("chat_template") if file.is_file() else None
    if isinstance(template, list):  # several, by name
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise refuse(str(file), "chat_template is neither a text nor a list of named ones", "mend the file")
    return template
