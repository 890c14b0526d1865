"""The model over key/value caches on the CPU, computed by one call of C++ (native/decoder.cc) for all blocks."""

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.model.compiled import DTYPES
from dscoder_exp.model.llama import Llama
from dscoder_exp.native.library import library

KEYS = 16  # positions in a block of the cache of keys; values' rows are a multiple of it (native/decoder.h)
STORED = {"fp32": np.float32, "bf16": np.uint16, "fp16": np.uint16}  # by precision; bf16 and fp16 as bit patterns
_INT, _POINTER = ctypes.c_int64, ctypes.c_void_p
_WEIGHTS = ("input_norm", "q", "k", "v", "o", "post_attention_norm", "gate", "up", "down")
_SIZES = ("layers", "hidden", "heads", "key_heads", "head_dim", "intermediate", "vocabulary", "slots", "capacity")
_ADDRESSES = ("embedding", "norm", "head", "cos", "sin", "keys", "values")


class _Block(ctypes.Structure):
    _fields_ = [(name, _POINTER) for name in _WEIGHTS]


class _Decoder(ctypes.Structure):
    _fields_ = [
        *((name, _INT) for name in _SIZES),
        ("blocks", ctypes.POINTER(_Block)),
        *((name, _POINTER) for name in _ADDRESSES),
        ("eps", ctypes.c_float),
    ]


class _Tokens(ctypes.Structure):
    _fields_ = [(name, _INT) for name in ("count", "num_logits")]
    _fields_ += [(name, _POINTER) for name in ("slots", "ids", "positions", "logits")]


def decoder_library(model: Llama) -> Path | None:
    """The C++ library if it can compute this model; None: it is on an NPU, split over ranks or has LoRA factors, there
    is no compiler, or the weights aren't held in the model's precision, as in training with fp16.
    """
    computable = model.compiled.device == "cpu" and model.mesh.topology.tensor == 1 and model.lora is None
    return library().path if computable and model.norm.dtype == DTYPES[model.precision] else None


class Decoder:
    """Caches of `slots` sequences, and the model's forward pass over them.

    It uses the weights' own memory: what an optimizer writes there, the next call computes with. Any number of tokens
    takes the same code, so no length is better than another, and a token's result doesn't depend on the others.
    """

    chunk = 512  # tokens of a prompt in one call, whose activations are then some MB: the weights are read once a call

    def __init__(self, model: Llama, path: Path, slots: int) -> None:
        """
        Args:
            path: what decoder_library returned.
        """
        self._model, self._slots, self._capacity = model, slots, 0
        self._function = getattr(ctypes.CDLL(str(path)), f"decode_{model.precision}")
        self._function.restype = None
        self._keys, self._values = self._allocated(0)
        self._described = _Decoder()  # until positions are reserved

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` positions in each slot; what is cached stays."""
        keys, values = self._allocated(capacity)
        kept = min(self._capacity, capacity)
        keys[:, :, :, : kept // KEYS] = self._keys[:, :, :, : kept // KEYS]
        values[:, :, :, :kept] = self._values[:, :, :, :kept]
        self._keys, self._values, self._capacity = keys, values, keys.shape[3] * KEYS
        self._described = self._describe()

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a slot to another one."""
        blocks = -(-length // KEYS)
        self._keys[:, target, :, :blocks] = self._keys[:, source, :, :blocks]
        self._values[:, target, :, :length] = self._values[:, source, :, :length]

    def forward(
        self,
        slots: NDArray[np.int32],
        ids: NDArray[np.int32],
        positions: NDArray[np.int32],
        num_logits: int,
    ) -> NDArray[np.float32]:
        """Run tokens, each at a position of a slot, and write their keys and values into the caches.

        Args:
            slots, ids, positions: [N]; the tokens of a slot in the order of their positions, after all earlier ones.
            num_logits: number of last tokens whose logits are wanted.

        Returns:
            fp32 [num_logits, V].
        """
        arrays = [np.ascontiguousarray(array, np.int32) for array in (slots, ids, positions)]
        logits = np.empty((num_logits, self._model.config.vocab_size), np.float32)
        tokens = _Tokens(len(arrays[0]), num_logits, *(array.ctypes.data for array in (*arrays, logits)))
        self._model.masters.wait_all()
        self._function(ctypes.byref(self._described), ctypes.byref(tokens))
        return logits

    def _allocated(self, capacity: int) -> tuple[NDArray, NDArray]:
        """Zeroed caches of keys and values (native/decoder.h)."""
        config, blocks = self._model.config, -(-capacity // KEYS)
        shape, dtype = (
            (config.num_hidden_layers, self._slots, config.num_key_value_heads),
            STORED[self._model.precision],
        )
        size = config.head_dim
        values = (blocks * KEYS, -(-size // KEYS) * KEYS)
        return np.zeros((*shape, blocks, size, KEYS), dtype), np.zeros((*shape, *values), dtype)

    def _describe(self) -> _Decoder:
        """The model's sizes and addresses; weights are updated in place, so that their addresses stay."""
        model, config = self._model, self._model.config
        blocks = [_Block(*(tensor.data_ptr() for tensor in model.block(layer))) for layer in range(model.num_blocks)]
        tensors = model.embedding, model.norm, model.head, *model.rotary.tables(self._capacity)
        return _Decoder(
            model.num_blocks,
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.intermediate_size,
            config.vocab_size,
            self._slots,
            self._capacity,
            (_Block * len(blocks))(*blocks),
            *(tensor.data_ptr() for tensor in tensors),
            self._keys.ctypes.data,
            self._values.ctypes.data,
            config.rms_norm_eps,
        )
