"""A tokenizer from its file, and whether it fits a model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dscoder_exp.hub.locate import locate
from dscoder_exp.schema.errors import Problem, refuse
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.storage.file_names import TOKENIZER_FILE

if TYPE_CHECKING:  # its import is left to the moment one is built
    from tokenizers import Tokenizer

THE_MODELS_OWN = "give the tokenizer that came with the model"
SHOWN = 3  # special tokens that a message names


def load_tokenizer(path: str, key: str = "tokenizer.path") -> Tokenizer:
    """The tokenizer of a tokenizer.json, or of the directory that holds one.

    Raises:
        Refused: nothing there, or not such a file.
    """
    found = locate(path, key)
    if found.is_dir():
        found = found / TOKENIZER_FILE
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

    An id above the model's vocabulary has no embedding. A model whose first or last token is an ordinary word of the
    tokenizer, or lies outside it, was trained with another one, however well the sizes fit. Only where its first token
    is the tokenizer's may the last one lie beyond it (an instruct model's end mark, beside the base model's tokenizer).
    Padding may lie beyond the tokenizer (DeepSeek-Coder's does), but not beyond the model.
    """
    highest, size = max(tokenizer.get_vocab().values(), default=-1), config.vocab_size
    if highest >= size:
        what = f"the tokenizer has ids up to {highest}, the model's vocabulary ends at {size - 1}"
        return Problem("tokenizer.path", what, THE_MODELS_OWN)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token = getattr(config, name)
        if token is not None and token >= size:
            what = f"the model's {name} {token} is above its own vocabulary, which ends at {size - 1}"
            return Problem(f"model.{name}", what, f"set model.{name} to one of the model's ids")
    added = tokenizer.get_added_tokens_decoder()
    for name in ("bos_token_id", "eos_token_id"):
        token = getattr(config, name)
        if token is None or token in added:
            continue
        if (text := tokenizer.id_to_token(token)) is None:
            if name == "eos_token_id" and config.bos_token_id in added:
                continue
            what = f"the model's {name} {token} is not in the tokenizer, whose ids end at {highest}"
        elif added:
            what = f"the model's {name} {token} is an ordinary token of the tokenizer ({text!r})"
        else:  # a tokenizer that marks no token
            continue
        own = {item.content: index for index, item in added.items() if item.special}
        return Problem("tokenizer.path", f"{what}; special there: {_shown(own)}", THE_MODELS_OWN)
    return None


@dataclass(frozen=True)
class Fingerprint:
    """What the ids of a text depend on; equal where two tokenizers give equal ids.

    Attributes:
        sha256: hex, of the vocabulary, the merges, the added tokens, and how text is split and normalised. How ids
            become text again, and which ids are put around a text, are not part of it.
        vocab_size: its entries, the added ones included.
        special: the special tokens, text -> id.
    """

    sha256: str
    vocab_size: int
    special: dict[str, int]

    def __str__(self) -> str:
        return f"{self.vocab_size:,} entries, special {_shown(self.special)}, SHA-256 {self.sha256[:8]}…"


def fingerprint(tokenizer: Tokenizer) -> Fingerprint:
    """Of a tokenizer, whatever file it came from."""
    text = tokenizer.to_str()
    begin = text.index('"model":{')  # within a string its quotes would be escaped; 3 MB, left unparsed
    parts = json.loads(text[:begin] + '"model":null}')
    added = [{name: value for name, value in token.items() if name != "special"} for token in parts["added_tokens"]]
    digest = hashlib.sha256(json.dumps([added, parts["normalizer"], parts["pre_tokenizer"]]).encode())
    digest.update(text[begin:].encode())
    special = {token["content"]: token["id"] for token in parts["added_tokens"] if token["special"]}
    return Fingerprint(digest.hexdigest(), tokenizer.get_vocab_size(), special)


def _shown(special: dict[str, int]) -> str:
    shown = ", ".join(f"{text} {index}" for text, index in list(special.items())[:SHOWN])
    return (shown or "none") + (", …" if len(special) > SHOWN else "")
