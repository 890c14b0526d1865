"""Continuous batching: a slot whose row has ended takes the next prompt at once."""

import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.generation.engine import Engine
from dscoder_exp.generation.sampling import Sampler, Sampling

NOTHING = np.empty(0, np.int32)
MIN_COPIED = 16  # positions; fewer are prefilled faster, together with the rest of a prompt, than copied


@dataclass
class Row:
    """A prompt, and the tokens generated after it.

    Attributes:
        ids: the prompt's, at least one.
        max_new_tokens: how many tokens there is room for, at least 1.
        stop_token_ids: tokens that end the answer.
        seed, sample: what its random numbers depend on, besides its prompt.
        tokens: the new ones, with the one that ended it.
        finish_reason: "stop" after a stop token, "length" after max_new_tokens; "" while it isn't finished.
        first_token_s: seconds from the start of its prefill to the first new token.
        seconds: from the start of its prefill to its end.
    """

    ids: NDArray[np.int32]
    max_new_tokens: int
    stop_token_ids: Collection[int] = ()
    seed: int = 0
    sample: int = 0
    tokens: list[int] = field(default_factory=list)
    finish_reason: str = ""
    first_token_s: float = 0.0
    seconds: float = 0.0
    _started: float = field(default=0.0, init=False)

    def begin(self) -> None:
        """A slot is about to be prefilled with the prompt."""
        self._started = time.perf_counter()

    def take(self, token: int) -> None:
        """Add a token, and set `finish_reason` if it is the last one."""
        self.tokens.append(token)
        self.seconds = time.perf_counter() - self._started
        self.first_token_s = self.first_token_s or self.seconds
        if self._ends(token):
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.max_new_tokens:
            self.finish_reason = "length"

    def _ends(self, token: int) -> bool:
        return token in self.stop_token_ids


class Batch:
    """The slots of an engine, and which ids each has cached.

    A prompt is prefilled from where it differs from what some slot has cached, so a beginning that prompts share (a
    system message, a template, all of it for several samples) is computed once. Make a new one when the weights change.

    Attributes:
        tokens: new tokens so far, of all rows.
        prefill_compile_s: seconds so far of the calls in prefill that compiled a function.
    """

    def __init__(self, engine: Engine, sampling: Sampling, *, keep_answers: bool = False) -> None:
        """
        Args:
            keep_answers: reuse what was generated, too, as a conversation's next prompt holds it. It was computed by
                other products than a prompt is, so the last bits, and at a tie the next token, may differ from those
                of the whole prompt alone.
        """
        self._engine, self._keep = engine, keep_answers
        self.tokens = 0
        self.prefill_compile_s = 0.0
        self._compiled_before = engine.compile_seconds
        self._sample = Sampler(sampling, engine.slots)
        self._rows: list[Row | None] = [None] * engine.slots
        self._cached: list[NDArray[np.int32]] = [NOTHING] * engine.slots

    @property
    def compile_s(self) -> float:
        """Seconds so far of all calls that compiled a function."""
        return self._engine.compile_seconds - self._compiled_before

    def run(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """Generate all rows; yields the rows that each step has finished, often none.

        Rows are taken in the order of their ids, so that prompts which begin alike follow each other. A caller that
        leaves early leaves no row behind.
        """
        if not rows:
            return
        self._engine.reserve(max(len(row.ids) + row.max_new_tokens for row in rows))
        waiting = deque(sorted(rows, key=lambda row: row.ids.astype(">i4").tobytes()))
        try:
            while waiting or any(self._rows):
                finished = []
                for slot in range(self._engine.slots):
                    while waiting and self._rows[slot] is None:
                        finished += self._begin(slot, waiting.popleft())
                if any(self._rows):
                    finished += self._step()
                yield finished
        finally:
            for slot in range(self._engine.slots):
                self._end(slot)

    def _begin(self, slot: int, row: Row) -> list[Row]:
        """Prefill a slot with a row's prompt and take its first token; returns [row] if that was its last."""
        row.begin()
        source, shared = self._nearest(slot, row.ids)
        if source != slot:
            self._engine.copy(source, slot, shared)
        compiled = self.compile_s
        logits = self._engine.prefill(slot, row.ids[shared:], shared)
        self.prefill_compile_s += self.compile_s - compiled
        self._cached[slot] = row.ids
        self._sample.begin(slot, row.ids, row.seed, row.sample)
        self._rows[slot] = row
        return self._take([slot], self._sample([slot], logits[None]))

    def _step(self) -> list[Row]:
        """One token more for each row in a slot; returns those that it finished."""
        active = [(slot, row) for slot, row in enumerate(self._rows) if row is not None]
        slots = [slot for slot, _ in active]
        tokens = np.array([row.tokens[-1] for _, row in active], np.int32)
        positions = np.array([len(row.ids) + len(row.tokens) - 1 for _, row in active], np.int32)
        step = np.array(slots, np.int32), tokens, positions
        if self._sample.takes_the_likeliest:
            return self._take(slots, self._engine.decode_greedy(*step))
        return self._take(slots, self._sample(slots, self._engine.decode(*step)))

    def _take(self, slots: list[int], tokens: NDArray[np.int32]) -> list[Row]:
        """Give each slot's row its next token; returns the rows that this finishes."""
        finished = []
        self.tokens += len(slots)
        for slot, token in zip(slots, tokens.tolist(), strict=True):
            row = self._rows[slot]
            assert row is not None
            row.take(token)
            if row.finish_reason:
                self._end(slot)
                finished.append(row)
        return finished

    def _end(self, slot: int) -> None:
        """Free a slot; the last new token was never run, so it isn't cached."""
        row, self._rows[slot] = self._rows[slot], None
        if row is not None and self._keep:
            self._cached[slot] = np.concatenate([row.ids, np.array(row.tokens[:-1], np.int32)])

    def _nearest(self, slot: int, ids: NDArray[np.int32]) -> tuple[int, int]:
        """The slot that has cached the longest beginning of `ids`, and its length; `slot` itself unless it gains much.

        Not all of `ids`: the last one's logits have to be computed.
        """
        shared = [_common(cached, ids[:-1]) for cached in self._cached]
        source = max(range(len(shared)), key=shared.__getitem__)
        return (source, shared[source]) if shared[source] - shared[slot] >= MIN_COPIED else (slot, shared[slot])


def _common(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """How many ids both begin with."""
    length = min(len(one), len(other))
    differ = one[:length] != other[:length]
    return int(differ.argmax()) if differ.any() else length
