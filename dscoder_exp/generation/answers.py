"""Text in, text out: a prompt through its template and the engine, and the answer as it comes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from dscoder_exp.generation.engine import Engine
from dscoder_exp.generation.sampling import Sampling


@dataclass(frozen=True)
class Answer:
    """What was generated, and how fast.

    Attributes:
        tokens: new ones, the eos included.
        first_token_s: from the prompt to the first new token.
        seconds: of the whole answer.
    """

    text: str
    prompt_tokens: int
    tokens: int
    first_token_s: float
    seconds: float

    @property
    def prefill_tokens_per_s(self) -> float:
        return self.prompt_tokens / self.first_token_s

    @property
    def tokens_per_s(self) -> float:
        """New tokens over the whole time, prefill included."""
        return self.tokens / self.seconds


def answer(
    engine: Engine,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    eos_token_id: int | None,
    on_text: Callable[[str], None] = lambda text: None,
) -> Answer:
    """Generate an answer to the prompt's ids; `on_text` gets each piece of text as soon as its bytes are whole."""
    pieces: list[str] = []
    decoding = DecodeStream(skip_special_tokens=True)
    started = time.perf_counter()
    first, count = 0.0, 0
    for token in engine.stream(prompt, max_new_tokens=max_new_tokens, sampling=sampling, eos_token_id=eos_token_id):
        count += 1
        first = first or time.perf_counter() - started
        if token != eos_token_id and (piece := decoding.step(tokenizer, token)):
            pieces.append(piece)
            on_text(piece)
    return Answer("".join(pieces), len(prompt), count, first, time.perf_counter() - started)
