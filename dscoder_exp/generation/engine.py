"""Running a model over key/value caches, for generation."""

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.generation.compiled_decoder import CompiledDecoder
from dscoder_exp.model.decoder import Decoder, decoder_library
from dscoder_exp.model.llama import Llama

if TYPE_CHECKING:
    from dscoder_exp.generation.ascend_decoder import AscendDecoder

CAPACITY_MULTIPLE = 256  # capacities are multiples of this, so that few shapes are compiled


class Backend(Protocol):
    """What computes: model/decoder.py on a CPU, ascend_decoder.py on an NPU, else compiled_decoder.py."""

    chunk: int

    def reserve(self, capacity: int) -> None: ...

    def copy(self, source: int, target: int, length: int) -> None: ...

    def forward(
        self, slots: NDArray[np.int32], ids: NDArray[np.int32], positions: NDArray[np.int32], num_logits: int
    ) -> NDArray[np.float32]: ...


class Engine:
    """Runs a model over `slots` sequences at a time; each slot has its own key/value cache and length.

    A sequence's logits don't depend on what is in the other slots. All tensor ranks have to make the same calls.
    """

    def __init__(self, model: Llama, slots: int = 1) -> None:
        self.slots = slots
        self._compiled = model.compiled
        self._capacity = 0
        self._ascend = _ascend_decoder(model, slots) if model.compiled.device == "ascend" else None
        self._backend: Backend = self._ascend or _cpu_decoder(model, slots)

    @property
    def compile_seconds(self) -> float:
        """Total duration of the calls that compiled one of the model's functions; C++ is compiled before any call."""
        return self._compiled.compile_seconds

    def reserve(self, length: int) -> None:
        """Make room for `length` positions in each slot; what is cached stays."""
        capacity = -(-length // CAPACITY_MULTIPLE) * CAPACITY_MULTIPLE
        if capacity > self._capacity:
            self._backend.reserve(capacity)
            self._capacity = capacity

    def prefill(self, slot: int, ids: NDArray[np.int32], start: int = 0) -> NDArray[np.float32]:
        """Run a sequence's next tokens; what the slot holds from `start` on is dropped.

        Args:
            ids: [T], at least one, at positions start, start + 1, ….

        Returns:
            The logits after the last of `ids`, fp32 [V].
        """
        self.reserve(start + len(ids))
        positions = np.arange(start, start + len(ids), dtype=np.int32)
        logits = np.empty((0, 0), np.float32)
        for first in range(0, len(ids), self._backend.chunk):
            part = slice(first, first + self._backend.chunk)
            own = np.full(len(ids[part]), slot, np.int32)
            is_last = first + len(own) == len(ids)
            logits = self._backend.forward(own, ids[part], positions[part], int(is_last))
        return logits[0]

    def decode(
        self, slots: NDArray[np.int32], tokens: NDArray[np.int32], positions: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Run one token of each of N sequences.

        Args:
            slots, tokens, positions: [N]; each slot at most once.

        Returns:
            The logits after each token, fp32 [N, V].
        """
        self.reserve(int(positions.max()) + 1)
        return self._backend.forward(slots, tokens, positions, len(slots))

    def decode_greedy(
        self, slots: NDArray[np.int32], tokens: NDArray[np.int32], positions: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        """`decode`, and the most likely tokens [N] instead of the logits, which on an NPU aren't copied to the host."""
        if self._ascend is None:
            return self.decode(slots, tokens, positions).argmax(1).astype(np.int32)
        self.reserve(int(positions.max()) + 1)
        return self._ascend.greedy(slots, tokens, positions)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot to another: the beginning that two sequences share."""
        self._backend.copy(source, target, length)


def _ascend_decoder(model: Llama, slots: int) -> "AscendDecoder":
    from dscoder_exp.generation.ascend_decoder import AscendDecoder

    return AscendDecoder(model, slots)


def _cpu_decoder(model: Llama, slots: int) -> Backend:
    path = decoder_library(model)
    return CompiledDecoder(model, slots) if path is None else Decoder(model, path, slots)
