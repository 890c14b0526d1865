"""A tokenizer from its file, and whether it fits a model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from dscoder_exp.schema.errors import Problem, refuse
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.schema.locate import locate

if TYPE_CHECKING:  # its import is left to the moment one is built
    from tokenizers import Tokenizer


def load_tokenizer(path: str, key: str = "tokenizer.path") -> Tokenizer:
    """The tokenizer of a tokenizer.json, or of the directory that holds one.

    Raises:
        Refused: nothing there, or not such a file.
    """
    found = locate(path, key)
    if found.is_dir():
        found = found / "tokenizer.json"
        if not found.is_file():
            raise refuse(key, f"no tokenizer.json in {path}", "give a directory with tokenizer.json, or the file")
    return read_tokenizer(found, key)


def read_tokenizer(file: Path, key: str) -> Tokenizer:
    """The tokenizer of an existing tokenizer.json.

    Raises:
        Refused: not such a file.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        remedy = "give a tokenizer.json of the tokenizers library"
        raise refuse(key, f"{file}: not a readable tokenizer ({error})", remedy) from error


def vocabulary_problem(tokenizer: Tokenizer, config: LlamaConfig) -> Problem | None:
    """What makes this tokenizer unusable with this model, if anything.

    An id above the model's vocabulary has no embedding; a model whose begin or end token the tokenizer lacks was
    trained with another one. Padding may lie beyond the tokenizer (DeepSeek-Coder's does), but not beyond the model.
    """
    highest, size = max(tokenizer.get_vocab().values(), default=-1), config.vocab_size
    if highest >= size:
        what = f"the tokenizer has ids up to {highest}, the model's vocabulary ends at {size - 1}"
        return Problem("tokenizer.path", what, "give the tokenizer that came with the model")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token = getattr(config, name)
        if token is not None and token >= size:
            what = f"the model's {name} {token} is above its own vocabulary, which ends at {size - 1}"
            return Problem(f"model.{name}", what, f"set model.{name} to one of the model's ids")
    for name in ("bos_token_id", "eos_token_id"):
        token = getattr(config, name)
        if token is not None and tokenizer.id_to_token(token) is None:
            what = f"the model's {name} {token} is not in the tokenizer, whose ids end at {highest}"
            return Problem("tokenizer.path", what, "give the tokenizer that came with the model")
    return None


def fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 (hex) of the tokenizer's JSON: equal for tokenizers that are equal in every part."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
