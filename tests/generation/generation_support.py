"""An engine without a model: what it computes depends on every id of a sequence, so a wrong cache shows."""

from hashlib import blake2b

import numpy as np

VOCABULARY = 64


class CountingEngine:
    """Implements `Engine`.

    Attributes:
        prefilled: number of ids that were prefilled, by call.
        decoded: number of slots, by call.
        compile_seconds: as that of an engine whose first call of each kind compiles for a second.
    """

    def __init__(self, slots: int = 1) -> None:
        self.slots, self.room = slots, 0
        self.cached: list[list[int]] = [[] for _ in range(slots)]
        self.prefilled: list[int] = []
        self.decoded: list[int] = []

    @property
    def compile_seconds(self) -> float:
        return float(bool(self.prefilled)) + float(bool(self.decoded))

    def reserve(self, length: int) -> None:
        self.room = max(self.room, length)

    def prefill(self, slot: int, ids: np.ndarray, start: int = 0) -> np.ndarray:
        assert len(ids) > 0
        assert start <= len(self.cached[slot])
        assert start + len(ids) <= self.room
        self.prefilled.append(len(ids))
        self.cached[slot] = [*self.cached[slot][:start], *ids.tolist()]
        return logits_after(self.cached[slot])

    def decode(self, slots: np.ndarray, tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
        self.decoded.append(len(slots))
        found = []
        for slot, token, position in zip(slots.tolist(), tokens.tolist(), positions.tolist(), strict=True):
            assert position == len(self.cached[slot]) < self.room
            self.cached[slot].append(token)
            found.append(logits_after(self.cached[slot]))
        return np.stack(found)

    def decode_greedy(self, slots: np.ndarray, tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return self.decode(slots, tokens, positions).argmax(1)

    def copy(self, source: int, target: int, length: int) -> None:
        assert length <= len(self.cached[source])
        self.cached[target] = self.cached[source][:length]


def logits_after(ids: list[int]) -> np.ndarray:
    """Random logits [V], the same for the same ids."""
    seed = int.from_bytes(blake2b(repr(ids).encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).normal(size=VOCABULARY).astype(np.float32)


class Script:
    """An engine whose greedy answer to any prompt is `ids`; implements `Engine`."""

    slots, compile_seconds = 1, 0.0

    def __init__(self, ids: list[int], size: int) -> None:
        self._ids, self._size, self._next = ids, size, 0

    def reserve(self, length: int) -> None:
        pass

    def prefill(self, slot: int, ids: np.ndarray, start: int = 0) -> np.ndarray:
        self._next = 0
        return self._logits()

    def decode(self, slots: np.ndarray, tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return self._logits()[None]

    def decode_greedy(self, slots: np.ndarray, tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return self._logits()[None].argmax(1)

    def _logits(self) -> np.ndarray:
        logits = np.zeros(self._size, np.float32)
        logits[self._ids[self._next]] = 1
        self._next += 1
        return logits
