"""Sampling the next token of each of several sequences from their logits.

The definitions and their order are transformers' (generation/logits_process.py and GenerationMixin's
_get_logits_processor): RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper,
MinPLogitsWarper.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.schema.bounds import check_arguments
from dscoder_exp.schema.config import PredictConfig

GREEDY_BELOW = 1e-5  # temperature, as in vLLM: smaller ones divide scores beyond fp32's range


class Candidates(NamedTuple):
    """Tokens of n sequences that may be sampled: ids [n, m], in ascending order, and scores [n, m].

    A row with fewer than m of them is filled up with scores of -inf. ids is None where all tokens are left.
    """

    ids: NDArray[np.intp] | None
    scores: NDArray[np.float32]

    def where(self, kept: NDArray[np.bool_]) -> "Candidates":
        """Those for which `kept` [n, m] is true."""
        rows, columns = np.nonzero(kept)
        counts = np.bincount(rows, minlength=len(kept))
        places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        scores = np.full((len(kept), counts.max()), -np.inf, np.float32)
        ids = np.zeros(scores.shape, np.intp)
        scores[rows, places] = self.scores[rows, columns]
        ids[rows, places] = columns if self.ids is None else self.ids[rows, columns]
        return Candidates(ids, scores)

    def nucleus(self, top_p: float) -> "Candidates":
        """The fewest most probable ones whose sum reaches top_p: before each the more probable ones have less."""
        weights = self.weights()
        total = weights.sum(1, keepdims=True, dtype=np.float64)
        # Those at or below the floor have at most 1 - top_p together, so they are left out and needn't be sorted.
        # The likeliest, whose weight is 1, always stay.
        floor = ((1 - top_p) / weights.shape[1] * total).astype(np.float32)
        likely = self.where((weights > floor) | (weights == 1))
        weights = likely.weights()
        order = np.argsort(-weights, axis=1, kind="stable")
        ordered = np.take_along_axis(weights, order, 1).astype(np.float64)
        kept = np.empty(order.shape, np.bool_)
        within = np.cumsum(ordered, 1) - ordered < top_p * total
        within[:, 0] = True
        np.put_along_axis(kept, order, within, 1)
        return likely.where(kept & (weights > 0))

    def weights(self) -> NDArray[np.float32]:
        """Probabilities [n, m], each row times a number of its own."""
        return np.exp(self.scores - self.scores.max(1, keepdims=True))

    def draw(self, uniform: NDArray[np.float64]) -> NDArray[np.intp]:
        """A token [n] of each row for random numbers [n] in [0, 1), by the inverse of the cumulative distribution."""
        weights = self.weights()
        total = np.cumsum(weights, 1, dtype=np.float64)
        places = (total <= uniform[:, None] * total[:, -1:]).sum(1)
        last = weights.shape[1] - 1 - (weights[:, ::-1] > 0).argmax(1)  # rounding may lead one beyond it
        places = np.minimum(places, last)
        return places if self.ids is None else np.take_along_axis(self.ids, places[:, None], 1)[:, 0]


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters. None: no limit.

    Attributes:
        temperature: divides the scores; greedy below GREEDY_BELOW.
        top_k: keeps the k most probable tokens, and those that are as probable as the last of them; 0: no limit.
        top_p: of what top_k leaves, renormalized, keeps the fewest most probable tokens whose sum reaches top_p
            (nucleus sampling, arXiv:1904.09751).
        min_p: keeps tokens at least min_p times as probable as the most probable one (arXiv:2407.01082).
        repetition_penalty: divides the score of a token that the prompt or the answer has already, or multiplies it if
            it is negative (arXiv:1909.05858); greedy decoding, too.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError: a parameter is beyond the limits of conf/predict."""
        check_arguments(PredictConfig, **asdict(self))

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    def penalized(self, logits: NDArray[np.float32], seen: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Logits [n, V] after repetition_penalty; seen: [n, V], which tokens a sequence has already."""
        scores = logits.copy()
        rows, tokens = np.nonzero(seen)
        values = scores[rows, tokens]
        penalty = np.float32(self.repetition_penalty)
        scores[rows, tokens] = np.where(values < 0, values * penalty, values / penalty)
        return scores

    def candidates(self, scores: NDArray[np.float32]) -> Candidates:
        """The tokens that are left of scores [n, V], unless it is greedy."""
        scores = scores / np.float32(self.temperature)
        found = Candidates(None, scores)
        if self.top_k and self.top_k < scores.shape[1]:
            found = found.where(scores >= _kth_largest(scores, self.top_k))
        if self.top_p is not None and self.top_p < 1:
            found = found.nucleus(self.top_p)
        if self.min_p is not None and self.min_p > 0:
            least = found.scores.max(1, keepdims=True) + np.float32(np.log(self.min_p))
            found = found.where(found.scores >= least)
        return found


class Sampler:
    """Samples for `slots` sequences, each with a random generator of its own."""

    def __init__(self, sampling: Sampling, slots: int) -> None:
        self._sampling = sampling
        self._generators: list[np.random.Generator | None] = [None] * slots
        self._ids: list[NDArray[np.int32]] = [np.empty(0, np.int32)] * slots
        self._seen: NDArray[np.bool_] | None = None  # [slots, V]

    @property
    def takes_the_likeliest(self) -> bool:
        """Whether the next token is that of the largest logit."""
        return self._sampling.is_greedy and self._sampling.repetition_penalty == 1

    def begin(self, slot: int, ids: NDArray[np.int32], seed: int, sample: int) -> None:
        """Begin a sequence in a slot. What is drawn for it depends on these arguments alone.

        Args:
            ids: the prompt's.
            sample: its number among several answers to the prompt.
        """
        self._ids[slot] = ids
        if self._seen is not None:
            self._begin_seen(slot)
        if not self._sampling.is_greedy:
            # Of the prompt as well: else all rows of a file would draw the same numbers, and an average over them
            # would vary as much as one row does.
            prompt = int.from_bytes(blake2b(ids.astype("<i4").tobytes(), digest_size=8).digest(), "little")
            self._generators[slot] = np.random.default_rng([seed, sample, prompt])

    def __call__(self, slots: Sequence[int], logits: NDArray[np.float32]) -> NDArray[np.int32]:
        """The next token [n] of each of n slots, from their logits [n, V]."""
        rows = list(slots)
        if self._sampling.repetition_penalty != 1 and self._seen is None:
            self._seen = np.zeros((len(self._ids), logits.shape[1]), np.bool_)
            for slot in range(len(self._ids)):
                self._begin_seen(slot)
        scores = logits if self._seen is None else self._sampling.penalized(logits, self._seen[rows])
        if self._sampling.is_greedy:
            tokens = scores.argmax(1)
        else:
            uniform = np.array([generator.random() for slot in rows if (generator := self._generators[slot])])
            tokens = self._sampling.candidates(scores).draw(uniform)
        if self._seen is not None:
            self._seen[rows, tokens] = True
        return tokens.astype(np.int32)

    def _begin_seen(self, slot: int) -> None:
        assert self._seen is not None
        self._seen[slot] = False
        self._seen[slot, self._ids[slot]] = True


def _kth_largest(scores: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """The k-th largest of each row of scores [n, V], [n, 1]."""
    rows, size = scores.shape
    width = size // (4 * k)
    if width > 1:  # of so many blocks' maxima the k-th is at most the one sought, so few scores have to be partitioned
        blocks = scores[:, : size // width * width].reshape(rows, -1, width).max(2)
        least = np.partition(blocks, blocks.shape[1] - k, axis=1)[:, blocks.shape[1] - k, None]
        scores = Candidates(None, scores).where(scores >= least).scores
    place = scores.shape[1] - k
    return np.partition(scores, place, axis=1)[:, place, None]
