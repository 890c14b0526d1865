"""Writing the native checkpoint of a model in memory: whole, in fp32, a directory that transformers reads as well.

The weights lie in model.safetensors by Hugging Face's names; beside them config.json, the tokenizer's files, and the
record (record.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dscoder_exp.schema.errors import Problem, Refused
from dscoder_exp.schema.files import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.schema.making import making
from dscoder_exp.weights.chat_template import keep
from dscoder_exp.weights.hf_config import to_hf
from dscoder_exp.weights.layout import Cut
from dscoder_exp.weights.names import expected
from dscoder_exp.weights.record import RecordedTensor, write_json, write_record
from dscoder_exp.weights.safetensors_file import safetensors_layout
from dscoder_exp.weights.stored import TensorWriter
from dscoder_exp.weights.tokenizer import fingerprint

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
    add: Callable[[Path], None] = lambda directory: None,
) -> None:
    """Writes a whole fp32 checkpoint or nothing.

    Args:
        directory: the target; its parents are made.
        config: the model's shape.
        tensors: (Hugging Face name, array of the shape that `expected(config)` gives), in any order; taken one at a
            time, so a generator that fetches them keeps memory low.
        tokenizer: saved beside the weights.
        template: the prompt format that the model now follows; a file goes along.
        lineage: where it came from (JSON values).
        add: writes more files into the directory, which its record leaves out.

    Raises:
        Refused: the target exists and isn't an empty directory.
        ValueError: the tensors are not those of `config`.
    """
    shapes = expected(config)
    with new_directory(directory, "output_dir") as unfinished:
        layout = safetensors_layout({name: ("F32", shape) for name, shape in shapes.items()})
        with TensorWriter(unfinished / WEIGHTS_FILE, layout) as writer:
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
        keep(unfinished, template)
        hashes = writer.hashes()
        write_record(
            unfinished,
            written,
            {name: RecordedTensor("F32", Cut(shape, None, 1), (hashes[name],)) for name, shape in shapes.items()},
            ways=1,
            template=template,
            tokenizer=tokenizer and fingerprint(tokenizer),
            lineage=lineage,
        )
        add(unfinished)


@contextmanager
def new_directory(target: Path, key: str) -> Iterator[Path]:
    """A directory beside `target` to write into, which becomes it at the end, or is removed.

    Raises:
        Refused: the target exists and isn't an empty directory, or it can't be made.
    """
    _refuse_existing(target, key)
    with making(target, key) as unfinished:
        _refuse_existing(target, key)  # another process may have been faster
        yield unfinished
        unfinished.rename(target)


def _refuse_existing(target: Path, key: str) -> None:
    if (problem := target_problem(target, key)) is not None:
        raise Refused([problem])


def target_problem(target: Path, key: str) -> Problem | None:
    """Where something lies at the target already; an empty directory doesn't count."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    return Problem(key, f"{target} exists already", f"remove it, or choose another {key}")


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
