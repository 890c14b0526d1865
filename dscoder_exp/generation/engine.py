"""Generation of one sequence at a time, with a KV cache that is updated in place."""

from collections.abc import Collection, Iterator, Sequence
from itertools import chain

import mindspore as ms
import numpy as np
from mindspore import mint
from numpy.typing import NDArray

from dscoder_exp.device.memory import fetch, put, put_all
from dscoder_exp.generation.sampling import Sampling
from dscoder_exp.model.compiled import DTYPES
from dscoder_exp.model.llama import Llama

PREFILL_CHUNK = 128  # prompt tokens per prefill call, padded to this length: one compiled shape for all prompts
CACHE_MULTIPLE = 256  # cache lengths are multiples of this, so that few shapes are compiled
MAX_BLOCKS_PER_CALL = 6  # a call costs 0.3 ms beside its kernels; each block in it takes 0.5 s to compile


class Engine:
    """Prefills a prompt in chunks, then decodes one token at a time.

    The KV caches are reused for the next prompt: entries of an earlier one are masked until they are overwritten.
    """

    def __init__(self, model: Llama) -> None:
        self._model = model
        self._dtype = DTYPES[model.precision]
        self._capacity = 0
        self._calls: list[list[ms.Tensor]] = []  # for each call, its blocks' k_cache, v_cache and weights, concatenated

    def stream(
        self, prompt: Sequence[int], *, max_new_tokens: int, sampling: Sampling, stop_token_ids: Collection[int]
    ) -> Iterator[int]:
        """Yield new token ids as they are generated, including the one that ends the answer.

        Args:
            prompt: token ids, at least one.
            stop_token_ids: tokens to stop after; none: generate `max_new_tokens` tokens.
        """
        self._reserve(len(prompt) + max_new_tokens)
        self._model.masters.wait_all()
        sample = sampling.sampler()
        token = sample(self._prefill(np.asarray(prompt, np.int32)))
        for position in range(len(prompt), len(prompt) + max_new_tokens):
            yield token
            if token in stop_token_ids or position == len(prompt) + max_new_tokens - 1:
                return
            token = sample(self._forward(np.array([token], np.int32), position, last=0))

    def _reserve(self, length: int) -> None:
        """Allocate larger KV caches if the present ones hold fewer than `length` positions."""
        capacity = -(-length // CACHE_MULTIPLE) * CACHE_MULTIPLE
        if capacity <= self._capacity:
            return
        config = self._model.rank_config
        shape = (config.num_key_value_heads, capacity, config.head_dim)
        blocks = [
            [mint.zeros(shape, dtype=self._dtype), mint.zeros(shape, dtype=self._dtype), *self._model.block(layer)]
            for layer in range(self._model.num_blocks)
        ]
        count = max(size for size in range(1, MAX_BLOCKS_PER_CALL + 1) if len(blocks) % size == 0)
        self._calls = [list(chain(*blocks[first : first + count])) for first in range(0, len(blocks), count)]
        self._cache_positions = put(np.arange(capacity, dtype=np.int32))
        self._capacity = capacity

    def _prefill(self, prompt: NDArray[np.int32]) -> NDArray[np.float32]:
        """The logits [V] after the prompt's last token."""
        logits = np.empty(0, np.float32)
        for start in range(0, len(prompt), PREFILL_CHUNK):
            ids = prompt[start : start + PREFILL_CHUNK]
            last = len(ids) - 1 if start + len(ids) == len(prompt) else None
            logits = self._forward(np.pad(ids, (0, PREFILL_CHUNK - len(ids))), start, last)
        return logits

    def _forward(self, ids: NDArray[np.int32], start: int, last: int | None) -> NDArray[np.float32]:
        """Run ids [T] at positions start, start + 1, …; returns the logits [V] of ids[last], or [] if last is None."""
        model, compiled = self._model, self._model.compiled
        positions = np.arange(start, start + len(ids), dtype=np.int32)
        arrays = put_all(ids[None], positions[None])
        x, *beside = compiled.cached_embed(
            *arrays, model.embedding, *model.rotary.tables(self._capacity), self._cache_positions
        )
        for blocks in self._calls:
            x = compiled.cached_run(x, *beside, *blocks)
        if last is None:
            return np.empty(0, np.float32)
        return fetch(compiled.logits(x[last : last + 1], model.norm, model.head))[0]
