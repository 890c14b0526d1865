"""Generation of one sequence with a key/value cache that is updated in place."""

from collections.abc import Iterator, Sequence
from itertools import chain

import mindspore as ms
import numpy as np
from mindspore import mint
from numpy.typing import NDArray

from dscoder_exp.device.memory import fetch, put, put_all
from dscoder_exp.generation.sampling import Sampling
from dscoder_exp.model.compiled import DTYPES
from dscoder_exp.model.llama import Llama

PREFILL = 128  # prompt tokens taken at a time, padded up to it: one compiled shape for every prompt
CAPACITY = 256  # cache lengths are multiples of it, so that few shapes are compiled
BLOCKS_A_CALL = 6  # at most: a call costs 0.3 ms beside its kernels, each block in it half a second to compile


class Engine:
    """Prefills a prompt chunk by chunk, then decodes a token at a time.

    The caches are kept from one prompt to the next: what an earlier one left in them is masked until overwritten.
    """

    def __init__(self, model: Llama) -> None:
        self._model = model
        self._dtype = DTYPES[model.precision]
        self._capacity = 0
        self._runs: list[list[ms.Tensor]] = []  # k_cache, v_cache and weights of a call's blocks, end to end

    def stream(
        self, prompt: Sequence[int], *, max_new_tokens: int, sampling: Sampling, eos_token_id: int | None
    ) -> Iterator[int]:
        """Yields new token ids as they come, the eos included.

        Args:
            prompt: at least one id.
            eos_token_id: where to stop; None: only at `max_new_tokens`.
        """
        self._reserve(len(prompt) + max_new_tokens)
        self._model.masters.wait_all()
        draw = sampling.sampler()
        token = draw(self._prefill(np.asarray(prompt, np.int32)))
        for position in range(len(prompt), len(prompt) + max_new_tokens):
            yield token
            if token == eos_token_id or position == len(prompt) + max_new_tokens - 1:
                return
            token = draw(self._step(np.array([token], np.int32), position, last=0))

    def _reserve(self, length: int) -> None:
        """Room for `length` positions."""
        capacity = -(-length // CAPACITY) * CAPACITY
        if capacity <= self._capacity:
            return
        config = self._model.rank_config
        shape = (config.num_key_value_heads, capacity, config.head_dim)
        blocks = [
            [mint.zeros(shape, dtype=self._dtype), mint.zeros(shape, dtype=self._dtype), *self._model.block(layer)]
            for layer in range(self._model.num_blocks)
        ]
        count = max(size for size in range(1, BLOCKS_A_CALL + 1) if len(blocks) % size == 0)
        self._runs = [list(chain(*blocks[first : first + count])) for first in range(0, len(blocks), count)]
        self._slots = put(np.arange(capacity, dtype=np.int32))
        self._capacity = capacity

    def _prefill(self, prompt: NDArray[np.int32]) -> NDArray[np.float32]:
        """The logits [V] after the prompt's last token."""
        logits = np.empty(0, np.float32)
        for start in range(0, len(prompt), PREFILL):
            ids = prompt[start : start + PREFILL]
            last = len(ids) - 1 if start + len(ids) == len(prompt) else None
            logits = self._step(np.pad(ids, (0, PREFILL - len(ids))), start, last)
        return logits

    def _step(self, ids: NDArray[np.int32], start: int, last: int | None) -> NDArray[np.float32]:
        """Run ids [T] at positions start, start + 1, …; the logits [V] of row `last`, if one is asked for."""
        model, compiled = self._model, self._model.compiled
        positions = np.arange(start, start + len(ids), dtype=np.int32)
        arrays = put_all(ids[None], positions[None])
        x, *beside = compiled.cached_embed(*arrays, model.embedding, *model.rotary.tables(self._capacity), self._slots)
        for blocks in self._runs:
            x = compiled.cached_run(x, *beside, *blocks)
        if last is None:
            return np.empty(0, np.float32)
        return fetch(compiled.logits(x[last : last + 1], model.norm, model.head))[0]
