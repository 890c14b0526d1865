"""The model over key/value caches on Ascend, with the inputs of a step on the device.

Compiled for a card (tests/ascend), never run on one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import mindspore as ms
import numpy as np
from mindspore import mint
from numpy.typing import NDArray

from dscoder_exp.device.memory import fetch, put, put_all
from dscoder_exp.generation.compiled_decoder import calls_of
from dscoder_exp.generation.slot_cache import SPARE, SlotCache
from dscoder_exp.model.compiled import DTYPES
from dscoder_exp.model.llama import Llama
from dscoder_exp.model.rotary import rotary_tables

Integers = NDArray[np.int32]


@dataclass(frozen=True)
class Mirrored:
    """An array on the device, and its values on the host; None: the host doesn't know them."""

    tensor: ms.Tensor
    values: Integers | None

    def is_known_as(self, values: Integers) -> bool:
        return self.values is not None and np.array_equal(self.values, values)


class AscendDecoder:
    """Caches of `slots` sequences, and the model's forward pass over them.

    A step computes all slots, those that aren't asked for as well: one compiled shape, and the same operators for a
    sequence, whatever the others do. What a step leaves on the device is the next step's input, if that goes on with
    the same slots. Then nothing is copied to the device but tokens that the host has chosen.
    """

    chunk = 256  # tokens of a prompt in one call, padded to this length: one compiled shape for all prompts

    def __init__(self, model: Llama, slots: int) -> None:
        self._model, self._functions, self._slots = model, model.compiled.decoding, slots
        self._dtype = DTYPES[model.precision]
        self._caches: list[SlotCache] = []
        self._capacity = 0
        lengths = {slots, self.chunk}
        self._zeros = {rows: mint.zeros((rows, model.config.hidden_size), dtype=self._dtype) for rows in lengths}

    def reserve(self, capacity: int) -> None:
        """As Decoder.reserve."""
        config, slots = self._model.rank_config, self._slots
        width = config.num_key_value_heads * config.head_dim
        for layer in range(self._model.num_blocks):
            if self._capacity:
                self._caches[layer] = self._caches[layer].grown(capacity)
            else:
                self._caches.append(SlotCache.zeros(slots, capacity, width, self._dtype))
        self._capacity, self._spare = capacity, slots * capacity
        self._offsets = np.arange(0, slots * capacity, capacity, dtype=np.int32)
        self._put_tables()
        self._ids, *self._places = [Mirrored(self._halves, None)] * 4  # nothing is known: the next step puts all

    def _put_tables(self) -> None:
        """Put on the device what depends on the capacity."""
        config, capacity = self._model.rank_config, self._capacity
        cos, sin = rotary_tables(self._model.config, np.arange(capacity))
        tables = np.concatenate([cos, np.ones_like(cos)]), np.concatenate([sin, np.zeros_like(sin)])
        self._angles = [put(table).astype(self._dtype) for table in tables]
        key_heads = config.num_key_value_heads
        is_value = [0] * (config.num_attention_heads + key_heads) + [capacity] * key_heads
        self._is_value = put(np.array(is_value, np.int32).reshape(1, 1, -1))
        self._halves = put(np.array([0, self._spare + SPARE], np.int32).reshape(1, 1, 2))
        self._key_positions = put(np.arange(capacity, dtype=np.int32).reshape(1, 1, -1))

    def copy(self, source: int, target: int, length: int) -> None:
        """As Decoder.copy; copies all positions, of which only the first `length` count."""
        for cache in self._caches if source != target else ():
            cache.copy(source, target)

    def forward(self, slots: Integers, ids: Integers, positions: Integers, num_logits: int) -> NDArray[np.float32]:
        """As Decoder.forward: one token for each of the slots and all logits, or at most `chunk` tokens of one slot and
        the logits of the last or of none.
        """
        if num_logits < len(slots):
            return self._prefill(int(slots[0]), ids, positions, num_logits)
        return fetch(self._step(slots, ids, positions)[0])[slots]

    def greedy(self, slots: Integers, ids: Integers, positions: Integers) -> Integers:
        """Run one token of each of N slots; returns the most likely next ones [N], all that is copied to the host."""
        likely = self._step(slots, ids, positions)[1]
        found = fetch(likely)
        self._ids = Mirrored(likely, found)
        return found[slots]

    def _step(self, slots: Integers, ids: Integers, positions: Integers) -> tuple[ms.Tensor, ms.Tensor]:
        """Run one token of each of N slots; returns all slots' logits [slots, V] and most likely ids [slots]."""
        model, functions = self._model, self._functions
        tokens, places, offsets, advances = self._step_inputs(slots, ids, positions)
        model.masters.wait_all()
        tables = self._halves, self._is_value, model.embedding, *self._angles, self._key_positions
        x, *beside = functions.embed_step(tokens.tensor, places.tensor, offsets.tensor, *tables)
        delta = self._zeros[self._slots]
        for blocks in calls_of(model.num_blocks):
            tensors = ((*self._caches[i].of_all(), *model.decoding_block(i)) for i in blocks)
            x, delta = functions.run_step(x, delta, *beside, *chain(*tensors))
        head = advances.tensor, model.norm, model.head
        logits, likely, following = functions.logits_step(x, delta, places.tensor, *head)
        assert places.values is not None
        assert advances.values is not None
        self._ids = Mirrored(likely, None)
        self._places = [Mirrored(following, places.values + advances.values), offsets, advances]
        return logits, likely

    def _step_inputs(self, slots: Integers, ids: Integers, positions: Integers) -> list[Mirrored]:
        """All slots' ids [slots], positions, offsets in the cache, and numbers of new positions, [slots, 1, 1].

        A slot that isn't in use writes to a spare row, and attends to its own first position.
        """
        known = self._ids.values
        all_ids = np.zeros(self._slots, np.int32) if known is None else known.copy()
        all_places, advances = np.zeros((2, self._slots, 1, 1), np.int32)
        offsets = np.full_like(all_places, self._spare)
        all_ids[slots], all_places[slots, 0, 0], advances[slots] = ids, positions, 1
        offsets[slots, 0, 0] = self._offsets[slots]
        return mirrored((self._ids, *self._places), (all_ids, all_places, offsets, advances))

    def _prefill(self, slot: int, ids: Integers, positions: Integers, num_logits: int) -> NDArray[np.float32]:
        """Run at most `chunk` tokens of a slot; returns the logits [num_logits, V] of the last one, or of none."""
        model, functions, count, missing = self._model, self._functions, len(ids), self.chunk - len(ids)
        places, offsets = np.zeros((2, self.chunk, 1, 1), np.int32)
        places[:count, 0, 0], offsets[:count], offsets[count:] = positions, self._offsets[slot], self._spare
        *inputs, last = put_all(np.pad(ids, (0, missing)), places, offsets, np.array([count - 1], np.int32))
        model.masters.wait_all()
        tables = self._halves, self._is_value, model.embedding, *self._angles
        x, *beside = functions.embed_chunk(*inputs, *tables)
        lengths = [ms.Tensor.from_numpy(np.array([number], np.int64)) for number in (count, positions[-1] + 1)]
        delta = self._zeros[self.chunk]
        for blocks in calls_of(model.num_blocks):
            tensors = ((*self._caches[i].of_slot(slot), *model.decoding_block(i)) for i in blocks)
            x, delta = functions.run_chunk(x, delta, *beside, *lengths, *chain(*tensors))
        if num_logits == 0:
            return np.empty((0, model.config.vocab_size), np.float32)
        return fetch(functions.logits_chunk(x, delta, last, model.norm, model.head))


def mirrored(held: Sequence[Mirrored], wanted: Sequence[Integers]) -> list[Mirrored]:
    """Arrays with the wanted values: those that are held, and the others in one copy to the device."""
    missing = [values for one, values in zip(held, wanted, strict=True) if not one.is_known_as(values)]
    tensors = iter(put_all(*missing) if missing else ())
    return [
        one if one.is_known_as(values) else Mirrored(next(tensors), values)
        for one, values in zip(held, wanted, strict=True)
    ]
