"""Generating an answer as text, streamed while it is generated."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from dscoder_exp.generation.engine import Engine
from dscoder_exp.generation.sampling import Sampling


@dataclass(frozen=True)
class Answer:
    """A generated answer and its timing.

    Attributes:
        prompt_tokens: number of prompt tokens.
        tokens: number of new tokens, including the one that ended it.
        first_token_s: seconds until the first new token.
        seconds: for the whole answer, prefill included.
    """

    text: str
    prompt_tokens: int
    tokens: int
    first_token_s: float
    seconds: float

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prompt tokens divided by the time to the first new token."""
        return self.prompt_tokens / self.first_token_s

    @property
    def tokens_per_s(self) -> float:
        """New tokens divided by the time for the whole answer, prefill included."""
        return self.tokens / self.seconds


def answer(
    engine: Engine,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    stop_token_ids: Collection[int],
    on_text: Callable[[str], None] = lambda text: None,
) -> Answer:
    """Generate an answer to a prompt given as token ids.

    Args:
        stop_token_ids: tokens that end the answer; they are no part of its text.
        on_text: called with each new text; a character of several tokens is held back until it is complete.
    """
    texts: list[str] = []
    decoding = DecodeStream(skip_special_tokens=True)
    started = time.perf_counter()
    first, count = 0.0, 0
    for token in engine.stream(prompt, max_new_tokens=max_new_tokens, sampling=sampling, stop_token_ids=stop_token_ids):
        count += 1
        first = first or time.perf_counter() - started
        if token not in stop_token_ids and (text := decoding.step(tokenizer, token)):
            texts.append(text)
            on_text(text)
    return Answer("".join(texts), len(prompt), count, first, time.perf_counter() - started)
