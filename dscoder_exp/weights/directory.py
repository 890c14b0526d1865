"""A directory of safetensors: Hugging Face's (one file or shards), or a native checkpoint."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.chat_template import recognise
from dscoder_exp.weights.hf_config import from_hf, read_json
from dscoder_exp.weights.layout import INPUTS, Cut, file_name
from dscoder_exp.weights.safetensors_file import Entry, chunks, read_header, read_rows, to_float32
from dscoder_exp.weights.tokenizer import read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT, VERSION = "dscoder_exp", 2
CHECKPOINT_FILE, CONFIG_FILE = "checkpoint.json", "config.json"
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
COPY_AGAIN = "copy the directory again"


class _Directory:
    """What both kinds share: config and template are read at once, headers when asked, tensors by their rows."""

    def __init__(self, path: Path, key: str, config: LlamaConfig, template: str | None) -> None:
        self.path, self.config, self.template = path, config, template
        self._key = key

    @property
    def chat_template(self) -> str | None:
        return _chat_template(self.path, self._key)

    @cached_property
    def _slices(self) -> dict[str, tuple[Cut, list[tuple[Path, Entry]]]]:
        """Name -> how the tensor is cut, and where its slices lie, in order."""
        raise NotImplementedError

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: cut.shape for name, (cut, _) in self._slices.items()}

    def dtype(self, name: str) -> str:
        return self._slices[name][1][0][1].dtype

    def rows(self, name: str, first: int, last: int) -> np.ndarray:
        cut, slices = self._slices[name]
        if cut.axis == INPUTS:
            return np.concatenate([read_rows(*place, first, last) for place in slices], axis=1)
        height = cut.slice_shape[0]
        parts = [
            read_rows(*place, max(first - start, 0), min(last - start, height))
            for start, place in zip(range(0, cut.shape[0], height), slices, strict=True)
            if first < start + height and start < last
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def tensor(self, name: str) -> np.ndarray:
        cut, slices = self._slices[name]
        whole = self.rows(name, 0, cut.shape[0])
        return to_float32(whole, slices[0][1].dtype).reshape(cut.shape)

    def tokenizer(self) -> Tokenizer | None:
        file = self.path / "tokenizer.json"
        return read_tokenizer(file, self._key) if file.is_file() else None


class HuggingFaceDirectory(_Directory):
    """config.json with model.safetensors, or with model.safetensors.index.json and its shards."""

    kind: Literal["hf"] = "hf"

    def __init__(self, path: Path, key: str) -> None:
        values = read_json(path / CONFIG_FILE, key)
        config = from_hf(values, str(path / CONFIG_FILE))
        super().__init__(path, key, config, None)
        self.template = recognise(self.chat_template)
        self._files = _weight_files(path, key)

    @cached_property
    def _slices(self) -> dict[str, tuple[Cut, list[tuple[Path, Entry]]]]:
        return {name: (Cut(place[1].shape, None, 1), [place]) for name, place in self._places().items()}

    def _places(self) -> dict[str, tuple[Path, Entry]]:
        if not self._files:
            file = self.path / WEIGHTS_FILE
            return {name: (file, entry) for name, entry in read_header(file, self._key).items()}
        headers = {file: read_header(self.path / file, self._key) for file in sorted(set(self._files.values()))}
        lost = [f"{name} in {file}" for name, file in self._files.items() if name not in headers[file]]
        if lost:
            what = f"{self.path / INDEX_FILE} names {len(lost)} tensors that are not there, such as {lost[0]}"
            raise refuse(self._key, what, COPY_AGAIN)
        return {name: (self.path / file, headers[file][name]) for name, file in self._files.items()}

    def verify(self) -> None:
        """Hugging Face directories record no hashes."""


class NativeDirectory(_Directory):
    """What checkpoint.py wrote: whole, or cut over tensor-parallel ranks."""

    kind: Literal["native"] = "native"

    def __init__(self, path: Path, key: str) -> None:
        file = path / CHECKPOINT_FILE
        record = read_json(file, key)
        if record.get("format") != FORMAT or record.get("version") != VERSION:
            what = f"format {record.get('format')!r} version {record.get('version')!r}; this is {FORMAT!r} {VERSION}"
            raise refuse(str(file), what, "use the release of dscoder_exp that wrote it")
        try:
            config = from_hf(record["config"], str(file))
            sizes = {name: item["bytes"] for name, item in record["files"].items()}
            self._written = {name: item["sha256"] for name, item in record["files"].items() if "sha256" in item}
            self._tensors = {
                name: (Cut(tuple(item["shape"]), item["axis"], len(item["sha256"])), item["sha256"])
                for name, item in record["tensors"].items()
            }
            self.ways: int = record["layout"]["tensor"]
            template = record["template"]
        except (KeyError, TypeError, AttributeError) as error:
            raise refuse(str(file), f"damaged: {error!r}", COPY_AGAIN) from error
        problems = [p for name, size in sizes.items() if (p := _size_problem(path / name, key, size))]
        if problems:
            raise Refused(problems)
        super().__init__(path, key, config, template)

    @cached_property
    def _slices(self) -> dict[str, tuple[Cut, list[tuple[Path, Entry]]]]:
        files = [self.path / file_name(rank, self.ways) for rank in range(self.ways)]
        headers = [read_header(file, self._key) for file in files]
        found = {}
        for name, (cut, _) in self._tensors.items():
            places = [(file, header.get(name)) for file, header in zip(files[: cut.ways], headers, strict=False)]
            if any(entry is None or entry.shape != cut.slice_shape for _, entry in places):
                what = f"{self.path}: the files don't hold {name} as {CHECKPOINT_FILE} says"
                raise refuse(self._key, what, COPY_AGAIN)
            found[name] = (cut, places)
        return found

    def verify(self) -> None:
        """Raises Refused if a tensor or a file no longer has the SHA-256 that was recorded when it was written."""
        for name, expected in self._written.items():
            with (self.path / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    raise self._altered(self.path / name)
        for name, (cut, places) in self._slices.items():
            for (file, entry), expected in zip(places, self._tensors[name][1], strict=True):
                digest = hashlib.sha256()
                for first, last in chunks(cut.slice_shape, entry.dtype):
                    digest.update(read_rows(file, entry, first, last))  # type: ignore[arg-type]  # an array is a buffer
                if digest.hexdigest() != expected:
                    raise self._altered(file, f", {name}")

    def _altered(self, file: Path, where: str = "") -> Refused:
        what = f"{file}{where}: its content has changed since it was written (SHA-256 differs)"
        return refuse(self._key, what, COPY_AGAIN)


def _size_problem(file: Path, key: str, size: int) -> Problem | None:
    if not file.is_file():
        return Problem(key, f"{file} is missing", COPY_AGAIN)
    found = file.stat().st_size
    return Problem(key, f"{file} has {found:,} bytes, was written with {size:,}", COPY_AGAIN) if found != size else None


def _weight_files(path: Path, key: str) -> dict[str, str]:
    """Tensor name -> shard; empty where one file holds all."""
    if (path / WEIGHTS_FILE).is_file():
        return {}
    if not (path / INDEX_FILE).is_file():
        if any(path.glob("pytorch_model*.bin")):
            what = f"{path} holds pytorch_model.bin, not safetensors; reading it is not built yet"
            raise refuse(key, what, "give a directory with model.safetensors")
        what = f"{path} has a config.json but no weights"
        raise refuse(key, what, f"put {WEIGHTS_FILE} (or its shards with {INDEX_FILE}) there")
    files = read_json(path / INDEX_FILE, key).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise refuse(str(path / INDEX_FILE), "has no weight_map", COPY_AGAIN)
    missing = sorted(file for file in set(files.values()) if not (path / file).is_file())
    if missing:
        raise Refused(
            [Problem(key, f"{path / file} is missing, named in {INDEX_FILE}", COPY_AGAIN) for file in missing]
        )
    return files


def _chat_template(path: Path, key: str) -> str | None:
    if (path / "chat_template.jinja").is_file():
        return (path / "chat_template.jinja").read_text("utf-8")
    if not (path / "tokenizer_config.json").is_file():
        return None
    template: Any = read_json(path / "tokenizer_config.json", key).get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {item["name"]: item["template"] for item in template}.get("default")
    return template
