"""Load a tokenizer from its file, and check that it fits a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dscoder_exp.hub.locate import locate
from dscoder_exp.schema.errors import Problem, refuse
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.storage.file_names import SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from dscoder_exp.storage.json_files import read_json

if TYPE_CHECKING:  # imported only when a tokenizer is built
    from tokenizers import Tokenizer

GIVE_MODELS_TOKENIZER = "give the tokenizer that came with the model"
MAX_TOKENS_SHOWN = 3  # special tokens in a message


def load_tokenizer(path: str, key: str = "tokenizer.path") -> Tokenizer:
    """Load a tokenizer.json, or the one in a directory.

    Raises:
        Refused: there is no tokenizer.json, or it can't be read.
    """
    found = locate(path, key)
    if found.is_dir():
        found = found / TOKENIZER_FILE
        if not found.is_file():
            raise refuse(key, f"no tokenizer.json in {path}", "give a directory with tokenizer.json, or the file")
    return read_tokenizer(found, key)


def read_tokenizer(file: Path, key: str) -> Tokenizer:
    """Load an existing tokenizer.json.

    Raises:
        Refused: the file can't be read as a tokenizer.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        remedy = "give a tokenizer.json of the tokenizers library"
        raise refuse(key, f"{file}: not a readable tokenizer ({error})", remedy) from error


def special_tokens_in(directory: Path) -> dict[str, str | None]:
    """The special tokens that tokenizer_config.json, else special_tokens_map.json, names: "eos_token" -> its text, or
    None for one that the tokenizer has not (Qwen2.5's bos_token).
    """
    found: dict[str, str | None] = {}
    for name in (SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE):
        if (directory / name).is_file():
            for role, token in read_json(directory / name, "tokenizer.path").items():
                text = token.get("content") if isinstance(token, dict) else token
                if role.endswith("_token") and (text is None or isinstance(text, str)):
                    found[role] = text
    return found


def vocabulary_problem(
    tokenizer: Tokenizer, config: LlamaConfig, ends: Sequence[int] = (), chosen: Sequence[str] = ()
) -> Problem | None:
    """The problem that keeps this tokenizer from being used with this model; None if there is none.

    All ids must be below the model's vocab_size, but those of special tokens (`special_beyond`). The model's BOS and
    EOS must be special tokens of the tokenizer: if one is an ordinary token or not in the tokenizer, the model was
    trained with another one, even if the sizes fit.
    Exception: if BOS is special, EOS may be above the tokenizer's ids (an instruct model's EOS, with the base model's
    tokenizer). Padding may be above the tokenizer's ids (as in DeepSeek-Coder), but not above the model's.

    Args:
        ends: tokens that end an answer; one special token among them is enough.
        chosen: names of the ids that the user gives otherwise than the model's files.
    """
    size = config.vocab_size
    unused = special_beyond(tokenizer, size)
    highest = max((index for text, index in tokenizer.get_vocab().items() if text not in unused), default=-1)
    if highest >= size:
        what = f"the tokenizer has ids up to {highest}, the model's vocabulary ends at {size - 1}"
        return Problem("tokenizer.path", what, GIVE_MODELS_TOKENIZER)
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
        if name == "eos_token_id" and name not in chosen and any(end in added for end in ends):
            continue
        if (text := tokenizer.id_to_token(token)) is None:
            if name == "eos_token_id" and config.bos_token_id in added:
                continue
            what = f"the model's {name} {token} is not in the tokenizer, whose ids end at {highest}"
        elif added:
            what = f"the model's {name} {token} is an ordinary token of the tokenizer ({text!r})"
        else:  # a tokenizer without added tokens
            continue
        own = {item.content: index for index, item in added.items() if item.special}
        if name in chosen:
            what = f"{token} is no special token of the tokenizer ({_listed(own)})"
            stop = "; predict.stop_token_ids=[ID] ends answers at any token" if name == "eos_token_id" else ""
            return Problem(f"model.{name}", what, f"give the id of one{stop}")
        return Problem("tokenizer.path", f"{what}; its special tokens: {_listed(own)}", GIVE_MODELS_TOKENIZER)
    return None


def special_beyond(tokenizer: Tokenizer, size: int) -> dict[str, int]:
    """Text -> id of the special tokens beyond a vocabulary of `size` ids, such as a padding token that was added.

    Words don't lead to them, so such a tokenizer can be used. A prompt format may: data/prompt_format.py looks out.
    """
    added = tokenizer.get_added_tokens_decoder()
    return {token.content: index for index, token in added.items() if index >= size and token.special}


@dataclass(frozen=True)
class Fingerprint:
    """Identifies a tokenizer by all that the ids of a text depend on.

    Attributes:
        sha256: hex, of vocabulary, merges, added tokens, pre-tokenizer and normalizer; not of the decoder and the
            post-processor.
        vocab_size: number of entries, added tokens included.
        special: text -> id of the special tokens.
    """

    sha256: str
    vocab_size: int
    special: dict[str, int]

    def __str__(self) -> str:
        return f"{self.vocab_size:,} entries, special {_listed(self.special)}, SHA-256 {self.sha256[:8]}…"


def fingerprint(tokenizer: Tokenizer) -> Fingerprint:
    """The fingerprint of a tokenizer, which doesn't depend on the file it was loaded from."""
    text = tokenizer.to_str()
    begin = text.index('"model":{')  # inside a string the quotes would be escaped; the 3 MB after it aren't parsed
    parts = json.loads(text[:begin] + '"model":null}')
    added = [{name: value for name, value in token.items() if name != "special"} for token in parts["added_tokens"]]
    digest = hashlib.sha256(json.dumps([added, parts["normalizer"], parts["pre_tokenizer"]]).encode())
    digest.update(text[begin:].encode())
    special = {token["content"]: token["id"] for token in parts["added_tokens"] if token["special"]}
    return Fingerprint(digest.hexdigest(), tokenizer.get_vocab_size(), special)


def _listed(special: dict[str, int]) -> str:
    shown = ", ".join(f"{text} {index}" for text, index in list(special.items())[:MAX_TOKENS_SHOWN])
    return (shown or "none") + (", …" if len(special) > MAX_TOKENS_SHOWN else "")
