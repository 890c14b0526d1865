"""Writing the native checkpoint: a directory that transformers reads as well.

checkpoint.json {format, version, config, dtype, template, files: {name: {bytes, sha256}}, lineage}, config.json,
model.safetensors (Hugging Face's names, fp32), and with a tokenizer tokenizer.json and tokenizer_config.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dscoder_exp.schema.errors import refuse
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.directory import CHECKPOINT_FILE, CONFIG_FILE, FORMAT, VERSION, WEIGHTS_FILE
from dscoder_exp.weights.hf_config import to_hf
from dscoder_exp.weights.names import expected
from dscoder_exp.weights.safetensors_file import write_float32

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
    """Writes a whole checkpoint or nothing: into a sibling directory first, which is then renamed.

    Args:
        directory: the target; its parents are made.
        config: the model's shape.
        tensors: (Hugging Face name, array of the shape that `expected(config)` gives), in any order; taken one at a
            time, so a generator that fetches them keeps memory low.
        tokenizer: saved beside the weights.
        template: the prompt format that the model now follows.
        lineage: where it came from (JSON values).

    Raises:
        Refused: the target exists.
        ValueError: the tensors are not those of `config`.
    """
    if directory.exists():
        raise refuse("output_dir", f"{directory} exists already", "remove it, or choose another output_dir")
    unfinished = directory.parent / f".{directory.name}.{os.getpid()}.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)  # a killed process of the same number may have left one
    unfinished.mkdir(parents=True)
    try:
        write_float32(unfinished / WEIGHTS_FILE, expected(config), tensors)
        _write_json(unfinished / CONFIG_FILE, to_hf(config))
        if tokenizer is not None:
            _write_tokenizer(unfinished, tokenizer, config)
        record = {
            "format": FORMAT,
            "version": VERSION,
            "config": to_hf(config),
            "dtype": "float32",
            "template": template,
            "files": {file.name: _fingerprint(file) for file in sorted(unfinished.iterdir())},
            "lineage": lineage,
        }
        _write_json(unfinished / CHECKPOINT_FILE, record)
        unfinished.rename(directory)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _write_tokenizer(directory: Path, tokenizer: Tokenizer, config: LlamaConfig) -> None:
    """With the few lines that keep transformers from rebuilding it as Llama's own kind of tokenizer."""
    tokenizer.save(str(directory / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for role in ("bos", "eos", "pad"):
        token = getattr(config, f"{role}_token_id")
        text = None if token is None else tokenizer.id_to_token(token)
        if text is not None:
            settings[f"{role}_token"] = text
    _write_json(directory / "tokenizer_config.json", settings)


def _fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}
