"""One .safetensors file: its header, rows of its tensors as they are stored, and writing one as the rows come.

The safetensors library checks what is read here, but its numpy side knows no bfloat16, and it writes only from all
tensors in memory at once; hence the few lines that use the (fixed, published) layout directly:
8 bytes little-endian header length, a JSON header of name -> {dtype, shape, data_offsets}, then the data.
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from dscoder_exp.schema.errors import refuse

STORED = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}  # numpy has no bfloat16

CHUNK = 32 * 1024**2  # bytes that are read, hashed and written at a time


class Entry(NamedTuple):
    """Where one tensor lies: shape, dtype as the file spells it, first byte's offset in the file."""

    shape: tuple[int, ...]
    dtype: str
    offset: int


def read_header(path: Path, key: str) -> dict[str, Entry]:
    """Name -> Entry of every tensor; no tensor is read.

    Raises:
        Refused: the file is damaged or cut short, or holds something else than floats.
    """
    try:
        with safe_open(path, framework="numpy"):  # checks the header, the offsets and the file's length
            pass
    except (SafetensorError, OSError) as error:
        remedy = "copy or download the file again"
        raise refuse(key, f"{path}: not a readable safetensors file ({error})", remedy) from error
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    odd = sorted({item["dtype"] for item in header.values()} - set(STORED))
    if odd:
        remedy = "give weights in fp32, fp16 or bf16"
        raise refuse(key, f"{path}: holds tensors of dtype {', '.join(odd)}", remedy)
    return {
        name: Entry(tuple(item["shape"]), item["dtype"], 8 + length + item["data_offsets"][0])
        for name, item in header.items()
    }


def size_of(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of a tensor of this shape and stored dtype."""
    return math.prod(shape) * np.dtype(STORED[dtype]).itemsize


def read_rows(path: Path, entry: Entry, first: int, last: int) -> np.ndarray:
    """Rows of the first axis, up to `last` and as stored (BF16 as uint16): [last - first, values of a row]."""
    width, dtype = math.prod(entry.shape[1:]), np.dtype(STORED[entry.dtype])
    count = (last - first) * width
    raw = np.fromfile(path, dtype, count, offset=entry.offset + first * width * dtype.itemsize)
    if raw.size != count:
        raise OSError(f"{path}: {raw.size} of {count} values read; it changed while it was being read")
    return raw.reshape(last - first, width)


def chunks(shape: tuple[int, ...], dtype: str) -> Iterator[tuple[int, int]]:
    """Runs of rows (first, last) that hold about CHUNK bytes each, from the first axis's start to its end."""
    step = max(1, CHUNK // max(size_of(shape[1:], dtype), 1))
    for first in range(0, shape[0], step):
        yield first, min(first + step, shape[0])


def to_float32(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Stored values as float32; the same array where they are."""
    if dtype == "BF16":  # the upper half of a float32
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32, copy=False)


class SafetensorsWriter:
    """Writes one file, whose header comes first; each tensor's rows come in order, tensors may alternate."""

    def __init__(self, path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        """
        Args:
            tensors: name -> dtype (a key of STORED) and shape, in the file's order.
        """
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers wants to see "pt"
        ends, end = {}, 0
        for name, (dtype, shape) in tensors.items():
            start, end = end, end + size_of(shape, dtype)
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
            ends[name] = (start, end)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._data = 8 + len(text)
        self._left = ends  # name -> where its next byte goes and where its last one ends
        self._hashes = {name: hashlib.sha256() for name in tensors}
        self._file = path.open("wb")
        self._file.write(struct.pack("<Q", len(text)) + text)

    def write(self, name: str, rows: np.ndarray) -> None:
        """Append rows, of the stored dtype, to a tensor.

        Raises:
            ValueError: more than the tensor's shape holds.
        """
        data: Any = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        start, end = self._left[name]
        if start + len(data) > end:
            raise ValueError(f"{name}: {start + len(data) - end} bytes more than its shape holds")
        self._file.seek(self._data + start)
        self._file.write(data)
        self._hashes[name].update(data)
        self._left[name] = (start + len(data), end)

    def hashes(self) -> dict[str, str]:
        """SHA-256 (hex) of each tensor's bytes."""
        return {name: digest.hexdigest() for name, digest in self._hashes.items()}

    def __enter__(self) -> "SafetensorsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises ValueError where a tensor was not given in full."""
        self._file.close()
        short = [name for name, (start, end) in self._left.items() if start != end]
        if short and error is None:
            raise ValueError(f"{len(short)} tensors were not given, such as {short[0]}")
