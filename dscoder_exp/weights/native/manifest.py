"""checkpoint.json, which makes a directory of safetensors a native checkpoint: written and read here.

{format, version, config, template, tokenizer: {sha256, vocab_size, special} or null, layout: {tensor: N}, tensors:
{name: {dtype, shape, axis, sha256: one a slice}}, files: {name: {bytes, and of what isn't weights the sha256}},
lineage}.
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
from dscoder_exp.weights.chat_template import kept, recorded
from dscoder_exp.weights.formats.hf_config import from_hf
from dscoder_exp.weights.native.layout import INPUTS, OUTPUTS, Cut
from dscoder_exp.weights.tokenizer import Fingerprint

FORMAT, VERSION = "dscoder_exp", 2
COPY_AGAIN = "copy the directory again"


@dataclass(frozen=True)
class RecordedTensor:
    """A tensor's dtype, how it is cut, and the SHA-256 (hex) of each slice."""

    dtype: str
    cut: Cut
    hashes: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """What a native checkpoint says of itself.

    tp_size: files that the weights are cut into, one a tensor-parallel rank.
    """

    config: LlamaConfig
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
    leave_out: Iterable[str] = (),
) -> None:
    """Last of all files: it makes the directory a checkpoint.

    Args:
        config: the content of config.json.
        template: the prompt format; one in a file lies in the directory (chat_template.py's `keep`).
        leave_out: names of files in the directory that are no part of the model.
    """
    names = {file.name for file in directory.iterdir()}.difference(leave_out)
    record = {
        "format": FORMAT,
        "version": VERSION,
        "config": config,
        "template": recorded(template),
        "tokenizer": tokenizer and asdict(tokenizer),
        "layout": {"tensor": tp_size},
        "tensors": {
            name: {"dtype": item.dtype, "shape": item.cut.shape, "axis": item.cut.axis, "sha256": item.hashes}
            for name, item in tensors.items()
        },
        "files": {name: _file_entry(directory / name) for name in sorted(names)},
        "lineage": lineage,
    }
    write_json(directory / CHECKPOINT_FILE, record)


def read_manifest(path: Path, key: str) -> Manifest:
    """The record of a directory; its files are there in their sizes, and those that aren't weights unchanged.

    Raises:
        Refused: damaged, of another version, or a file is missing or another than was written.
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
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise refuse(str(file), f"damaged: {error!r}", COPY_AGAIN) from error
    if problems:
        raise Refused(problems)
    return Manifest(config, kept(path, template), found, tp_size, tensors)


def refuse_other_format(file: Path, values: Mapping[str, Any], name: str, version: int) -> None:
    """Raise Refused where a record isn't of this format and version."""
    if (values.get("format"), values.get("version")) != (name, version):
        what = f"format {values.get('format')!r} version {values.get('version')!r}; this is {name!r} {version}"
        raise refuse(str(file), what, "use the release of dscoder_exp that wrote it")


def _tensor(item: dict[str, Any], tp_size: int) -> RecordedTensor:
    shape = tuple(_typed(size, int) for size in _typed(item["shape"], list))
    hashes = tuple(_typed(text, str) for text in _typed(item["sha256"], list))
    axis = item["axis"]
    if axis not in (None, OUTPUTS, INPUTS) or len(hashes) != (1 if axis is None else tp_size):
        raise ValueError(f"axis {axis!r} with {len(hashes)} slices over {tp_size} ranks")
    if axis is not None and (axis >= len(shape) or shape[axis] % tp_size):
        raise ValueError(f"{list(shape)} can't be cut {tp_size} ways along axis {axis}")
    return RecordedTensor(_typed(item["dtype"], str), Cut(shape, axis, len(hashes)), hashes)


def _fingerprint(item: dict[str, Any]) -> Fingerprint:
    special = {_typed(text, str): _typed(index, int) for text, index in item["special"].items()}
    return Fingerprint(_typed(item["sha256"], str), _typed(item["vocab_size"], int), special)


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool) or (kind is int and value < 0):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _file_entry(file: Path) -> dict[str, Any]:
    """The size, and of what isn't weights, whose tensors have hashes of their own, the SHA-256."""
    size = {"bytes": file.stat().st_size}
    return size if file.suffix == ".safetensors" else size | {"sha256": _sha256(file)}


def _file_problem(directory: Path, name: str, item: dict[str, Any], key: str) -> Problem | None:
    file, size = directory / Path(name).name, _typed(item["bytes"], int)
    if not file.is_file():
        return Problem(key, f"{file} is missing", COPY_AGAIN)
    if (found := file.stat().st_size) != size:
        return Problem(key, f"{file} has {found:,} bytes, was written with {size:,}", COPY_AGAIN)
    if item.get("sha256", "") and _sha256(file) != item["sha256"]:
        return altered(key, str(file))
    return None


def altered(key: str, what: str) -> Problem:
    """Of a file, or of a tensor in it, that isn't what was written."""
    return Problem(key, f"{what}: its content has changed since it was written (SHA-256 differs)", COPY_AGAIN)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
