"""Writing a native checkpoint of a model in memory, in fp32: whole, a directory that transformers reads as well, or a
file a tensor-parallel rank.

The weights lie in model.safetensors by Hugging Face's names; beside them config.json, the tokenizer's files, and the
manifest (manifest.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.storage.file_names import CONFIG_FILE, TOKENIZER_FILE
from dscoder_exp.storage.json_files import write_json
from dscoder_exp.weights.chat_template import keep
from dscoder_exp.weights.formats.hf_config import to_hf
from dscoder_exp.weights.formats.safetensors_file import safetensors_layout
from dscoder_exp.weights.formats.tensor_io import TensorWriter
from dscoder_exp.weights.names import parameter_shapes
from dscoder_exp.weights.native.layout import cut_of, file_name, held
from dscoder_exp.weights.native.manifest import RecordedTensor, write_manifest
from dscoder_exp.weights.tokenizer import fingerprint

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def write_weights(
    directory: Path, config: LlamaConfig, tensors: Iterable[tuple[str, np.ndarray]], rank: int, tp_size: int
) -> dict[str, str]:
    """Writes a tensor-parallel rank's file: its slice of every tensor, and with rank 0 those that aren't cut.

    Args:
        tensors: (Hugging Face name, array that the rank holds; layout.py's `held`), in any order; taken one at a time,
            so a generator that fetches them keeps memory low.

    Returns:
        Name -> SHA-256 (hex) of what was written.

    Raises:
        ValueError: the tensors are not those of `config`.
    """
    shapes = parameter_shapes(config)
    cuts = {name: cut_of(name, shape, tp_size) for name, shape in shapes.items()}
    mine = {name: cut for name, cut in cuts.items() if rank < cut.num_slices}
    layout = safetensors_layout({name: ("F32", cut.slice_shape) for name, cut in mine.items()})
    with TensorWriter(directory / file_name(rank, tp_size), layout) as writer:
        missing = set(shapes)
        for name, tensor in tensors:
            if name not in missing:
                raise ValueError(f"{name}: not a tensor of this model, or given twice")
            missing.remove(name)
            part = held(name, shapes[name], config, rank, tp_size)
            if tensor.shape != (expected_shape := part.shape(shapes[name])):
                raise ValueError(f"{name}: shape {tensor.shape}, expected {expected_shape}")
            if name in mine:
                rows = part.cut(tensor, cuts[name].slice_of(rank))
                writer.write(name, np.ascontiguousarray(rows, np.float32))
    return writer.hashes()


def write_model_files(
    directory: Path,
    config: LlamaConfig,
    hashes: Sequence[Mapping[str, str]],
    *,
    tokenizer: Tokenizer | None,
    template: str | None,
    lineage: dict[str, Any],
    tp_size: int = 1,
    leave_out: Iterable[str] = (),
) -> None:
    """Writes what lies beside the weights, once these are there; the manifest last.

    Args:
        directory: holds the weights' files.
        hashes: what `write_weights` returned, of each tensor-parallel rank.
        tokenizer: saved beside the weights.
        template: the prompt format that the model follows; a file goes along.
        lineage: where it came from (JSON values).
        leave_out: names of files in the directory that are no part of the model.
    """
    written = to_hf(config)
    write_json(directory / CONFIG_FILE, written)
    if tokenizer is not None:
        write_tokenizer(directory, tokenizer, config)
    keep(directory, template)
    cuts = {name: cut_of(name, shape, tp_size) for name, shape in parameter_shapes(config).items()}
    write_manifest(
        directory,
        written,
        {n: RecordedTensor("F32", cut, tuple(h[n] for h in hashes[: cut.num_slices])) for n, cut in cuts.items()},
        tp_size=tp_size,
        template=template,
        tokenizer=tokenizer and fingerprint(tokenizer),
        lineage=lineage,
        leave_out=leave_out,
    )


def write_tokenizer(
    directory: Path, tokenizer: Tokenizer, config: LlamaConfig, chat_template: str | None = None
) -> None:
    """With the few lines that keep transformers from rebuilding it as Llama's own kind of tokenizer."""
    tokenizer.save(str(directory / TOKENIZER_FILE))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if chat_template is not None:
        settings["chat_template"] = chat_template
    for role in ("bos", "eos", "pad"):
        token = getattr(config, f"{role}_token_id")
        text = None if token is None else tokenizer.id_to_token(token)
        if text is not None:
            settings[f"{role}_token"] = text
    write_json(directory / "tokenizer_config.json", settings)
