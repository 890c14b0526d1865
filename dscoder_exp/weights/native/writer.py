"""Write a native checkpoint of a model in memory, in fp32: one file of weights, which transformers also reads, or one
per tensor-parallel rank.

Tensors have Hugging Face's names; the other files are config.json, the tokenizer's, and checkpoint.json (manifest.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.storage.file_names import CONFIG_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from dscoder_exp.storage.json_files import write_json
from dscoder_exp.weights.chat_template import ModelTemplate, write_template
from dscoder_exp.weights.formats.hf_config import to_hf
from dscoder_exp.weights.formats.safetensors_file import safetensors_layout
from dscoder_exp.weights.formats.tensor_io import TensorWriter
from dscoder_exp.weights.generation_config import GenerationConfig, write_generation_config
from dscoder_exp.weights.names import parameter_shapes
from dscoder_exp.weights.native.layout import file_name, partition_of, rank_slice
from dscoder_exp.weights.native.manifest import RecordedTensor, write_manifest
from dscoder_exp.weights.tokenizer import fingerprint

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def write_weights(
    directory: Path, config: LlamaConfig, tensors: Iterable[tuple[str, np.ndarray]], rank: int, tp_size: int
) -> dict[str, str]:
    """Write a tensor-parallel rank's file: its slice of every partitioned tensor; rank 0 also writes the others.

    Args:
        tensors: (Hugging Face name, the rank's slice in memory; layout.py's `rank_slice`), in any order; consumed one
            by one, so that a generator keeps memory low.

    Returns:
        Name -> SHA-256 (hex) of the written bytes.

    Raises:
        ValueError: the tensors are not those of `config`.
    """
    shapes = parameter_shapes(config)
    partitions = {name: partition_of(name, shape, tp_size) for name, shape in shapes.items()}
    mine = {name: partition for name, partition in partitions.items() if rank < partition.num_slices}
    layout = safetensors_layout({name: ("F32", partition.slice_shape) for name, partition in mine.items()})
    with TensorWriter(directory / file_name(rank, tp_size), layout) as writer:
        missing = set(shapes)
        for name, tensor in tensors:
            if name not in missing:
                raise ValueError(f"{name}: not a tensor of this model, or given twice")
            missing.remove(name)
            part = rank_slice(name, shapes[name], config, rank, tp_size)
            if tensor.shape != (expected_shape := part.shape(shapes[name])):
                raise ValueError(f"{name}: shape {tensor.shape}, expected {expected_shape}")
            if name in mine:
                rows = part.subslice(tensor, partitions[name].slice_index(rank))
                writer.write(name, np.ascontiguousarray(rows, np.float32))
    return writer.hashes()


def write_model_files(
    directory: Path,
    config: LlamaConfig,
    hashes: Sequence[Mapping[str, str]],
    *,
    tokenizer: Tokenizer | None,
    special_tokens: Mapping[str, str],
    template: ModelTemplate | None,
    generation: GenerationConfig,
    lineage: dict[str, Any],
    tp_size: int = 1,
    exclude: Iterable[str] = (),
) -> None:
    """Write the files beside the weights: config.json, generation_config.json, the tokenizer, and checkpoint.json last.

    Args:
        directory: holds the weights already.
        hashes: what `write_weights` returned, per tensor-parallel rank.
        special_tokens: "eos_token" -> its text, and so on; roles that it lacks are the config's.
        template: the model's prompt format; written as chat_template.jinja.
        generation: the tokens that end an answer.
        lineage: JSON values that say how the model was made.
        exclude: names of files in the directory that don't belong to the model.
    """
    written = to_hf(config, stop_token_ids=generation.stop_token_ids)
    write_json(directory / CONFIG_FILE, written)
    write_generation_config(directory, config, generation)
    if tokenizer is not None:
        write_tokenizer(directory, tokenizer, config, special_tokens)
    write_template(directory, template)
    partitions = {name: partition_of(name, shape, tp_size) for name, shape in parameter_shapes(config).items()}
    write_manifest(
        directory,
        written,
        {
            name: RecordedTensor("F32", partition, tuple(by_name[name] for by_name in hashes[: partition.num_slices]))
            for name, partition in partitions.items()
        },
        tp_size=tp_size,
        template=template and template.name,
        tokenizer=tokenizer and fingerprint(tokenizer),
        lineage=lineage,
        exclude=exclude,
    )


def write_tokenizer(
    directory: Path, tokenizer: Tokenizer, config: LlamaConfig, special_tokens: Mapping[str, str]
) -> None:
    """Write tokenizer.json, and the tokenizer_config.json that keeps transformers from making it a LlamaTokenizer.

    Args:
        special_tokens: as `write_model_files` takes them.
    """
    tokenizer.save(str(directory / TOKENIZER_FILE))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for role in ("bos", "eos", "pad"):
        token = getattr(config, f"{role}_token_id")
        text = None if token is None else tokenizer.id_to_token(token)
        if text is not None:
            settings[f"{role}_token"] = text
    settings |= special_tokens  # chat templates write these
    write_json(directory / TOKENIZER_CONFIG_FILE, settings)
