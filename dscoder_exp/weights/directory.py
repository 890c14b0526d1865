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
from dscoder_exp.weights.safetensors_file import Entry, read_header, read_tensor
from dscoder_exp.weights.tokenizer import read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT, VERSION = "dscoder_exp", 1
CHECKPOINT_FILE, CONFIG_FILE = "checkpoint.json", "config.json"
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
COPY_AGAIN = "copy the directory again"


class _Directory:
    """What both kinds share: config and template are read at once, headers when asked, tensors one at a time."""

    def __init__(self, path: Path, key: str, config: LlamaConfig, template: str | None, files: dict[str, str]) -> None:
        self.path, self.config, self.template = path, config, template
        self._key, self._files = key, files  # files: name -> file; empty: all in WEIGHTS_FILE

    @cached_property
    def _entries(self) -> dict[str, tuple[Path, Entry]]:
        if not self._files:
            file = self.path / WEIGHTS_FILE
            return {name: (file, entry) for name, entry in read_header(file, self._key).items()}
        headers = {file: read_header(self.path / file, self._key) for file in sorted(set(self._files.values()))}
        lost = [f"{name} in {file}" for name, file in self._files.items() if name not in headers[file]]
        if lost:
            what = f"{self.path / INDEX_FILE} names {len(lost)} tensors that are not there, such as {lost[0]}"
            raise refuse(self._key, what, COPY_AGAIN)
        return {name: (self.path / file, headers[file][name]) for name, file in self._files.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, (_, entry) in self._entries.items()}

    def tensor(self, name: str) -> np.ndarray:
        return read_tensor(*self._entries[name])

    def tokenizer(self) -> Tokenizer | None:
        file = self.path / "tokenizer.json"
        return read_tokenizer(file, self._key) if file.is_file() else None


class HuggingFaceDirectory(_Directory):
    """config.json with model.safetensors, or with model.safetensors.index.json and its shards."""

    kind: Literal["hf"] = "hf"

    def __init__(self, path: Path, key: str) -> None:
        values = read_json(path / CONFIG_FILE, key)
        config = from_hf(values, str(path / CONFIG_FILE))
        super().__init__(path, key, config, recognise(_chat_template(path, key)), _weight_files(path, key))

    def verify(self) -> None:
        """Hugging Face directories record no hashes."""


class NativeDirectory(_Directory):
    """What `save_checkpoint` wrote."""

    kind: Literal["native"] = "native"

    def __init__(self, path: Path, key: str) -> None:
        file = path / CHECKPOINT_FILE
        record = read_json(file, key)
        if record.get("format") != FORMAT or record.get("version") != VERSION:
            what = f"format {record.get('format')!r} version {record.get('version')!r}; this is {FORMAT!r} {VERSION}"
            raise refuse(str(file), what, "use the release of dscoder_exp that wrote it")
        try:
            config = from_hf(record["config"], str(file))
            self._written = {name: (item["bytes"], item["sha256"]) for name, item in record["files"].items()}
            template = record["template"]
        except (KeyError, TypeError, AttributeError) as error:
            raise refuse(str(file), f"damaged: {error!r}", COPY_AGAIN) from error
        problems = [p for name, (size, _) in self._written.items() if (p := _size_problem(path / name, key, size))]
        if problems:
            raise Refused(problems)
        super().__init__(path, key, config, template, {})

    def verify(self) -> None:
        """Raises Refused if a file no longer has the SHA-256 that was recorded when it was written."""
        for name, (_, expected) in self._written.items():
            with (self.path / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    what = f"{self.path / name}: its content has changed since it was written (SHA-256 differs)"
                    raise refuse(self._key, what, COPY_AGAIN)


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
