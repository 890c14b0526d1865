"""Text that spells a special token, kept apart from the token itself.

A row may hold `<|im_end|>` as words: it talks about prompts, or somebody wants an answer to end early. The tokenizers
library would make the token of it. Here each control token gets another spelling in a copy of the tokenizer, which no
text has; what the chat template has written is respelt, what a row holds is left, and so becomes ordinary tokens.
"""

import json
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

OPEN, CLOSE = "\ufdd0", "\ufdd1"  # around a respelt token's number: code points that no text uses
FIRST = 0xE000  # numbers are characters of the private use area
# Added tokens that steer a conversation though the tokenizer calls them ordinary: DeepSeek-Coder's <|EOT|>, and its
# fim tokens, which have full-width bars.
CONTROL = re.compile(r"<[|\uff5c].+[|\uff5c]>|</?s>|\[/?INST\]", re.DOTALL)


class SpecialTokens:
    """The control tokens of a tokenizer: those that it calls special, and those whose form says it."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder().values()
        self.texts = sorted({token.content for token in added if token.special or CONTROL.fullmatch(token.content)})
        longest_first = sorted(self.texts, key=len, reverse=True)
        self._spelt = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._respelt = {text: f"{OPEN}{chr(FIRST + number)}{CLOSE}" for number, text in enumerate(self.texts)}
        self._swapped = self._respelt | {spelling: text for text, spelling in self._respelt.items()}
        self._either = re.compile(f"{self._spelt.pattern}|{OPEN}.{CLOSE}", re.DOTALL)

    def spelt_in(self, text: str) -> bool:
        """Whether the text spells a control token."""
        return self._spelt.search(text) is not None

    def found_in(self, text: str, first: int) -> Iterator[re.Match[str]]:
        """The control tokens that `text` spells at or after `first`, in order."""
        return self._spelt.finditer(text, first)

    def hide(self, text: str) -> str:
        """`text`, each control token that it spells respelt."""
        return self._spelt.sub(lambda match: self._respelt[match[0]], text)

    def swap(self, text: str) -> str:
        """Control tokens respelt, and those that `hide` has respelt as they were: what `as_text` encodes."""
        return self._either.sub(lambda match: self._swapped[match[0]], text)

    @cached_property
    def as_text(self) -> "Tokenizer":
        """The tokenizer with every control token respelt, under its id: their usual spelling is ordinary text."""
        from tokenizers import Tokenizer

        parts = json.loads(self._tokenizer.to_str())
        parts["post_processor"] = None  # it names tokens by their spelling
        for token in parts["added_tokens"]:
            token["content"] = self._respelt.get(token["content"], token["content"])
        model = parts["model"]
        vocab = model["vocab"]
        model["vocab"] = (
            {self._respelt.get(text, text): number for text, number in vocab.items()}
            if isinstance(vocab, dict)
            else [[self._respelt.get(text, text), score] for text, score in vocab]
        )
        if model.get("unk_token") in self._respelt:
            model["unk_token"] = self._respelt[model["unk_token"]]
        return Tokenizer.from_str(json.dumps(parts))


def texts_of(values: Iterable[Any]) -> list[str]:
    """Every string in a JSON value, at any depth."""
    found: list[str] = []
    for value in values:
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict):
            found += texts_of(value.values())
        elif isinstance(value, list):
            found += texts_of(value)
    return found
