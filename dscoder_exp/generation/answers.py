"""Answers as text: whole characters, no special tokens, cut before a stop string; streamed while they are generated."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from dscoder_exp.generation.batching import Row

PRIMED = 8  # last ids of a prompt that the text of one that continues is decoded behind


@dataclass(frozen=True)
class Ending:
    """What ends an answer, and is no part of its text.

    Attributes:
        token_ids: tokens.
        strings: texts, which may lie across tokens.
        hidden_ids: tokens that don't end it, but are no text either.
    """

    token_ids: Collection[int]
    strings: Sequence[str] = ()
    hidden_ids: Collection[int] = ()


class TextStream:
    """Turns tokens into text. What may be the beginning of a stop string is held back until it is known.

    Attributes:
        text: what may be shown so far.
        stopped: a stop string was found; the text ends before it.
    """

    def __init__(self, tokenizer: Tokenizer, ending: Ending, before: Sequence[int] = ()) -> None:
        """
        Args:
            before: ids that the text goes on after; without any a decoder may drop blanks that it begins with.
        """
        self._tokenizer, self._ending = tokenizer, ending
        self._decoding = DecodeStream(ids=list(before), skip_special_tokens=True)
        self._held = ""
        self._shown: list[str] = []
        self.stopped = False

    @property
    def text(self) -> str:
        return "".join(self._shown)

    def push(self, token: int) -> str:
        """Add a token; returns the text that may now be shown. A character of several tokens waits for the last."""
        if token in self._ending.token_ids or token in self._ending.hidden_ids:
            return ""
        self._held += self._decoding.step(self._tokenizer, token) or ""
        found = [at for stop in self._ending.strings if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._show(min(found))
        return self._show(len(self._held) - _pending(self._held, self._ending.strings))

    def end(self) -> str:
        """The answer has ended: returns what was held back, unless a stop string was found."""
        return "" if self.stopped else self._show(len(self._held))

    def _show(self, length: int) -> str:
        shown, self._held = self._held[:length], self._held[length:]
        if shown:
            self._shown.append(shown)
        return shown


@dataclass
class Answer(Row):
    """A row whose answer is text.

    Attributes:
        stream: the text; a new one for each answer.
        on_text: called with each new text.
    """

    stream: TextStream = field(kw_only=True)
    on_text: Callable[[str], None] = field(kw_only=True, default=lambda text: None)

    @property
    def text(self) -> str:
        return self.stream.text

    def stop(self) -> None:
        """End the answer here."""
        self.finish_reason = "interrupted"
        self._tell(self.stream.end())

    def fields(self) -> dict[str, Any]:
        """What a file of answers holds of it."""
        counts = {"prompt_tokens": len(self.ids), "tokens": len(self.tokens)}
        return {"text": self.text, **counts, "finish_reason": self.finish_reason, "seconds": round(self.seconds, 4)}

    def _ends(self, token: int) -> bool:
        self._tell(self.stream.push(token))
        ends = token in self.stop_token_ids or self.stream.stopped
        if ends or len(self.tokens) >= self.max_new_tokens:
            self._tell(self.stream.end())
        return ends

    def _tell(self, text: str) -> None:
        if text:
            self.on_text(text)


@dataclass(frozen=True)
class Answering:
    """How a model answers.

    Attributes:
        context: the model's, in tokens; an answer ends with it.
        max_new_tokens: the longest answer, in tokens.
        seed: of each answer's random numbers, which depend on its prompt, too.
        continues: an answer is the prompt's next text, so that blanks which it begins with count.
    """

    tokenizer: Tokenizer
    ending: Ending
    context: int
    max_new_tokens: int
    seed: int = 0
    continues: bool = False

    def answer(
        self,
        ids: Sequence[int] | NDArray[np.int32],
        sample: int = 0,
        on_text: Callable[[str], None] = lambda text: None,
    ) -> Answer:
        """A row for `Batch.run`.

        Args:
            ids: the prompt's, shorter than the context.
            sample: its number among several answers to the prompt.
            on_text: called with each new text.
        """
        prompt, room = np.asarray(ids, np.int32), self.context - len(ids)
        length, ends = min(self.max_new_tokens, room), self.ending.token_ids
        stream = TextStream(self.tokenizer, self.ending, prompt[-PRIMED:].tolist() if self.continues else ())
        return Answer(prompt, length, ends, self.seed, sample, stream=stream, on_text=on_text)


@dataclass(frozen=True)
class Speed:
    """Figures of some answers.

    Attributes:
        prompt_tokens, tokens: of all answers, the new ones with those that ended them.
        prefill_s: seconds that the prefill of their prompts took, each with its first new token, without compilation.
        first_token_s: until the first new token of the first answer, compilation included.
        seconds: for all of them, without compilation.
    """

    answers: int
    prompt_tokens: int
    tokens: int
    prefill_s: float
    first_token_s: float
    seconds: float

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prompt tokens divided by the time that their prefill took."""
        return self.prompt_tokens / self.prefill_s

    @property
    def tokens_per_s(self) -> float:
        """New tokens divided by the time for all answers, prefill included."""
        return self.tokens / self.seconds


def speed_of(rows: Sequence[Row], seconds: float, compile_s: float = 0.0, prefill_compile_s: float = 0.0) -> Speed:
    """The figures of at least one finished row.

    Args:
        seconds: for all of them.
        compile_s, prefill_compile_s: how many of these the calls took that compiled, and those of them in prefill.
    """
    firsts = [row.first_token_s for row in rows]
    prompts, tokens = (sum(map(len, ids)) for ids in ([row.ids for row in rows], [row.tokens for row in rows]))
    return Speed(len(rows), prompts, tokens, sum(firsts) - prefill_compile_s, firsts[0], seconds - compile_s)


def _pending(text: str, strings: Sequence[str]) -> int:
    """Length of the longest end of `text` that a stop string begins with."""
    longest = min(len(text), max(map(len, strings), default=1) - 1)
    lengths = range(longest, 0, -1)
    return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in strings)), 0)
