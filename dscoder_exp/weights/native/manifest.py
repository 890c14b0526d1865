"""Write and read checkpoint.json, which makes a directory of safetensors a native checkpoint.

{format, version, config, template, tokenizer: {sha256, vocab_size, special} or null, layout: {tensor: N}, tensors:
{name: {dtype, shape, axis, sha256: [one per slice]}}, files: {name: {bytes, sha256 (not of weights)}}, lineage}.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.storage.file_names import CHECKPOINT_FILE
from dscoder_exp.storage.json_files import read_json, write_json
from dscoder_exp.weights.formats.hf_config import end_tokens, from_hf
from dscoder_exp.weights.native.layout import INPUTS, OUTPUTS, Partition
from dscoder_exp.weights.tokenizer import Fingerprint

FORMAT, VERSION = "dscoder_exp", 2
COPY_AGAIN = "copy the directory again"


@dataclass(frozen=True)
class RecordedTensor:
    """A tensor's dtype, partition, and the SHA-256 (hex) of each slice."""

    dtype: str
    partition: Partition
    hashes: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """The content of checkpoint.json.

    Attributes:
        end_tokens: those that the config lists as eos_token_id.
        tp_size: number of files of weights, one per tensor-parallel rank.
    """

    config: LlamaConfig
    end_tokens: tuple[int, ...]
    template: str | None
    tokenizer: Fingerprint | None
    tp_size: int
    tensors: dict[str, RecordedTensor]


def write_manifest(
    directory: Path,
    config: dict[str, Any],
    tensors: Mapping[str, RecordedTensor],
    *,
    tp_size: int,
    template: str | None,
    tokenizer: Fingerprint | None,
    lineage: dict[str, Any],
    exclude: Iterable[str] = (),
) -> None:
    """Write checkpoint.json, after all other files.

    Args:
        config: the content of config.json.
        template: the name of the prompt format, whose source lies in the directory (chat_template.py).
        exclude: names of files in the directory that don't belong to the model.
    """
    names = {file.name for file in directory.iterdir()}.difference(exclude)
    record = {
        "format": FORMAT,
        "version": VERSION,
        "config": config,
        "template": template,
        "tokenizer": tokenizer and asdict(tokenizer),
        "layout": {"tensor": tp_size},
        "tensors": {
            name: {
                "dtype": item.dtype,
                "shape": item.partition.shape,
                "axis": item.partition.axis,
                "sha256": item.hashes,
            }
            for name, item in tensors.items()
        },
        "files": {name: _file_entry(directory / name) for name in sorted(names)},
        "lineage": lineage,
    }
    write_json(directory / CHECKPOINT_FILE, record)


def read_manifest(path: Path, key: str) -> Manifest:
    """Read checkpoint.json, and check the size of each file and the SHA-256 of those that aren't weights.

    Raises:
        Refused: checkpoint.json is damaged or of another version, or a file is missing or has changed.
    """
    file = path / CHECKPOINT_FILE
    values = read_json(file, key)
    refuse_other_format(file, values, FORMAT, VERSION)
    try:
        tp_size = _typed(values["layout"]["tensor"], int)
        if not 0 < tp_size <= len(values["files"]):
            raise ValueError(f"{tp_size} ranks and {len(values['files'])} files")
        tensors = {name: _tensor(item, tp_size) for name, item in values["tensors"].items()}
        template, tokenizer = values["template"], values["tokenizer"]
        if template is not None:
            _typed(template, str)
        found = tokenizer and _fingerprint(tokenizer)
        problems = [p for name, item in values["files"].items() if (p := _file_problem(path, name, item, key))]
        config = from_hf(_typed(values["config"], dict), str(file))
        ends = end_tokens(values["config"], str(file))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise refuse(str(file), f"damaged: {error!r}", COPY_AGAIN) from error
    if problems:
        raise Refused(problems)
    return Manifest(config, ends, template, found, tp_size, tensors)


def refuse_other_format(file: Path, values: Mapping[str, Any], name: str, version: int) -> None:
    """Raise Refused if a JSON record has another format or version than expected."""
    if (values.get("format"), values.get("version")) != (name, version):
        what = f"format {values.get('format')!r} version {values.get('version')!r}; expected {name!r} version {version}"
        raise refuse(str(file), what, "use the release of dscoder_exp that wrote it")


def _tensor(item: dict[str, Any], tp_size: int) -> RecordedTensor:
    shape = tuple(_typed(size, int) for size in _typed(item["shape"], list))
    hashes = tuple(_typed(text, str) for text in _typed(item["sha256"], list))
    axis = item["axis"]
    if axis not in (None, OUTPUTS, INPUTS) or len(hashes) != (1 if axis is None else tp_size):
        raise ValueError(f"axis {axis!r} with {len(hashes)} slices over {tp_size} ranks")
    if axis is not None and (axis >= len(shape) or shape[axis] % tp_size):
        raise ValueError(f"{list(shape)} can't be divided into {tp_size} slices along axis {axis}")
    return RecordedTensor(_typed(item["dtype"], str), Partition(shape, axis, len(hashes)), hashes)


def _fingerprint(item: dict[str, Any]) -> Fingerprint:
    special = {_typed(text, str): _typed(index, int) for text, index in item["special"].items()}
    return Fingerprint(_typed(item["sha256"], str), _typed(item["vocab_size"], int), special)


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool) or (kind is int and value < 0):
        raise TypeError(f"{value!r} is not of type {kind.__name__}")
    return value


def _file_entry(file: Path) -> dict[str, Any]:
    """A file's size, and its SHA-256 unless it holds weights, whose tensors are hashed one by one."""
    size = {"bytes": file.stat().st_size}
    return size if file.suffix == ".safetensors" else size | {"sha256": _sha256(file)}


def _file_problem(directory: Path, name: str, item: dict[str, Any], key: str) -> Problem | None:
    file, size = directory / Path(name).name, _typed(item["bytes"], int)
    if not file.is_file():
        return Problem(key, f"{file} is missing", COPY_AGAIN)
    if (found := file.stat().st_size) != size:
        return Problem(key, f"{file} has {found:,} bytes, but was written with {size:,}", COPY_AGAIN)
    if item.get("sha256", "") and _sha256(file) != item["sha256"]:
        return content_changed(key, str(file))
    return None


def content_changed(key: str, what: str) -> Problem:
    """The problem that a file, or a tensor in it, differs from its recorded SHA-256."""
    return Problem(key, f"{what}: its content has changed since it was written (SHA-256 differs)", COPY_AGAIN)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
