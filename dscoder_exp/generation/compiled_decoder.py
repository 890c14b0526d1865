"""The model over key/value caches by MindSpore's compiled functions: over ranks on CPUs, or without a compiler."""

from itertools import chain

import mindspore as ms
import numpy as np
from mindspore import mint
from numpy.typing import NDArray

from dscoder_exp.device.memory import fetch, put, put_all
from dscoder_exp.model.llama import Llama

MAX_BLOCKS_PER_CALL = 6  # a call costs 0.3 ms beside its kernels; each block in it takes 0.5 s to compile


def calls_of(num_blocks: int) -> list[range]:
    """The blocks of each call: the same number in all calls, so that one function is compiled."""
    count = max(size for size in range(1, MAX_BLOCKS_PER_CALL + 1) if num_blocks % size == 0)
    return [range(first, first + count) for first in range(0, num_blocks, count)]


class CompiledDecoder:
    """Caches of `slots` sequences, and the model's forward pass over them, one slot after another.

    Entries of a cache at later positions than a token's are masked until they are overwritten.
    """

    chunk = 128  # tokens of a prompt in one call, padded to this length: one compiled shape for all prompts

    def __init__(self, model: Llama, slots: int) -> None:
        self._model, self._capacity = model, 0
        self._caches: list[list[ms.Tensor]] = [[] for _ in range(slots)]  # of each block in turn: k_cache, v_cache
        self._cache_positions = put(np.empty(0, np.int32))

    def reserve(self, capacity: int) -> None:
        """As Decoder.reserve."""
        capacity += self.chunk  # wherever a prompt's last call begins, there is room for its padding
        config = self._model.rank_config
        shape = (config.num_key_value_heads, capacity - self._capacity, config.head_dim)
        for caches in self._caches:
            added = (mint.zeros(shape, dtype=ms.float32) for _ in range(2 * self._model.num_blocks))
            caches[:] = [mint.cat((old, new), 1) for old, new in zip(caches, added, strict=True)] if caches else added
        self._cache_positions = put(np.arange(capacity, dtype=np.int32))
        self._capacity = capacity

    def copy(self, source: int, target: int, length: int) -> None:
        """As Decoder.copy; copies all positions, of which only the first `length` count."""
        for old, new in zip(self._caches[target], self._caches[source], strict=True):
            old.copy_(new)

    def forward(
        self, slots: NDArray[np.int32], ids: NDArray[np.int32], positions: NDArray[np.int32], num_logits: int
    ) -> NDArray[np.float32]:
        """As Decoder.forward; at most `chunk` tokens of a slot."""
        self._model.masters.wait_all()
        starts = np.flatnonzero(np.diff(slots, prepend=-1))
        found = []
        for first, last in zip(starts, [*starts[1:], len(slots)], strict=True):
            wanted = np.arange(max(first, len(slots) - num_logits), last) - first
            found.append(self._run(int(slots[first]), ids[first:last], positions[first:last], wanted))
        return np.concatenate(found)

    def _run(
        self, slot: int, ids: NDArray[np.int32], positions: NDArray[np.int32], wanted: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """Run tokens of one slot; returns the logits of those with the numbers `wanted`."""
        model, compiled = self._model, self._model.compiled
        missing = self.chunk - len(ids) if len(ids) > 1 else 0
        later = np.arange(1, missing + 1, dtype=np.int32)
        arrays = put_all(np.pad(ids, (0, missing))[None], np.concatenate([positions, positions[-1] + later])[None])
        tables = model.rotary.tables(self._capacity)
        x, *beside = compiled.cached_embed(*arrays, model.embedding, *tables, self._cache_positions)
        for blocks in calls_of(model.num_blocks):
            caches = self._caches[slot]
            tensors = ((*caches[2 * i : 2 * i + 2], *model.block(i)) for i in blocks)
            x = compiled.cached_run(x, *beside, *chain(*tensors))
        logits = [fetch(compiled.logits(x[row : row + 1], model.norm, model.head)) for row in wanted.tolist()]
        return np.concatenate([np.empty((0, model.config.vocab_size), np.float32), *logits])
