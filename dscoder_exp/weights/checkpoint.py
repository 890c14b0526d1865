"""Writing the native checkpoint: a directory of safetensors and one record.

checkpoint.json {format, version, config, template, layout: {tensor: N}, tensors: {name: {dtype, shape, axis, sha256:
one a slice}}, files: {name: {bytes, and the small ones' sha256}}, lineage}; the weights by Hugging Face's names, whole
in model.safetensors or a file a rank (layout.py); config.json and the tokenizer's files. A whole one is a directory
that transformers reads as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dscoder_exp.schema.errors import Problem, Refused
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.directory import CHECKPOINT_FILE, CONFIG_FILE, FORMAT, VERSION, WEIGHTS_FILE
from dscoder_exp.weights.hf_config import to_hf
from dscoder_exp.weights.layout import Cut
from dscoder_exp.weights.names import expected
from dscoder_exp.weights.safetensors_file import SafetensorsWriter

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def save_checkpoint(
    directory: Path,
    config: LlamaConfig,
    tensors: Iterable[tuple[str, np.ndarray]],
    *,
    tokenizer: Tokenizer | None,
    template: str | None,
    lineage: dict[str, Any],
) -> None:
    """Writes a whole fp32 checkpoint or nothing.

    Args:
        directory: the target; its parents are made.
        config: the model's shape.
        tensors: (Hugging Face name, array of the shape that `expected(config)` gives), in any order; taken one at a
            time, so a generator that fetches them keeps memory low.
        tokenizer: saved beside the weights.
        template: the prompt format that the model now follows.
        lineage: where it came from (JSON values).

    Raises:
        Refused: the target exists and isn't an empty directory.
        ValueError: the tensors are not those of `config`.
    """
    shapes = expected(config)
    with new_directory(directory, "output_dir") as unfinished:
        with SafetensorsWriter(
            unfinished / WEIGHTS_FILE, {name: ("F32", shape) for name, shape in shapes.items()}
        ) as writer:
            missing = dict(shapes)
            for name, tensor in tensors:
                if name not in missing:
                    raise ValueError(f"{name}: not a tensor of this model, or given twice")
                if tensor.shape != missing.pop(name):
                    raise ValueError(f"{name}: shape {tensor.shape}, expected {shapes[name]}")
                writer.write(name, np.ascontiguousarray(tensor, np.float32))
        written = to_hf(config)
        write_json(unfinished / CONFIG_FILE, written)
        if tokenizer is not None:
            write_tokenizer(unfinished, tokenizer, config)
        hashes = writer.hashes()
        stored = {name: ("F32", Cut(shape, None, 1), [hashes[name]]) for name, shape in shapes.items()}
        write_record(unfinished, written, stored, ways=1, template=template, lineage=lineage)


@contextmanager
def new_directory(target: Path, key: str) -> Iterator[Path]:
    """A sibling of `target` to write into, which becomes it at the end, or is removed.

    Raises:
        Refused: the target exists and isn't an empty directory.
    """
    if (problem := target_problem(target, key)) is not None:
        raise Refused([problem])
    unfinished = target.parent / f".{target.name}.{os.getpid()}.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)  # a killed process of the same number may have left one
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def target_problem(target: Path, key: str) -> Problem | None:
    """Where something lies at the target already; an empty directory doesn't count."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    return Problem(key, f"{target} exists already", f"remove it, or choose another {key}")


def write_record(
    directory: Path,
    config: dict[str, Any],
    tensors: Mapping[str, tuple[str, Cut, Sequence[str]]],
    *,
    ways: int,
    template: str | None,
    lineage: dict[str, Any],
) -> None:
    """checkpoint.json, last: it makes the directory a checkpoint.

    Args:
        config: the content of config.json.
        tensors: name -> dtype, cut, and the SHA-256 of each slice.
        ways: files that the weights are cut into.
    """
    record = {
        "format": FORMAT,
        "version": VERSION,
        "config": config,
        "template": template,
        "layout": {"tensor": ways},
        "tensors": {
            name: {"dtype": dtype, "shape": list(cut.shape), "axis": cut.axis, "sha256": list(hashes)}
            for name, (dtype, cut, hashes) in tensors.items()
        },
        "files": {file.name: _fingerprint(file) for file in sorted(directory.iterdir())},
        "lineage": lineage,
    }
    write_json(directory / CHECKPOINT_FILE, record)


def write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def write_tokenizer(
    directory: Path, tokenizer: Tokenizer, config: LlamaConfig, chat_template: str | None = None
) -> None:
    """With the few lines that keep transformers from rebuilding it as Llama's own kind of tokenizer."""
    tokenizer.save(str(directory / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if chat_template is not None:
        settings["chat_template"] = chat_template
    for role in ("bos", "eos", "pad"):
        token = getattr(config, f"{role}_token_id")
        text = None if token is None else tokenizer.id_to_token(token)
        if text is not None:
            settings[f"{role}_token"] = text
    write_json(directory / "tokenizer_config.json", settings)


def _fingerprint(file: Path) -> dict[str, Any]:
    """The size, and of what isn't weights, whose tensors have hashes of their own, the SHA-256."""
    size = {"bytes": file.stat().st_size}
    return size if file.suffix == ".safetensors" else size | {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
