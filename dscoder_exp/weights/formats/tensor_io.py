"""Tensors as files hold them: their dtypes, where their bytes lie, reading and writing them some rows at a time."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

STORED = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}  # numpy has no bfloat16

CHUNK = 32 * 1024**2  # bytes that are read, hashed and written at a time


class ByteRange(NamedTuple):
    """Bytes of a file that belong together."""

    offset: int
    size: int


class Entry(NamedTuple):
    """One tensor of a file: its shape, its dtype (as safetensors spells it, if it is in STORED), its bytes in order."""

    shape: tuple[int, ...]
    dtype: str
    runs: tuple[ByteRange, ...]


class Layout(NamedTuple):
    """What a file will look like: the bytes between the tensors by their offset, and each tensor's entry by name."""

    texts: tuple[tuple[int, bytes], ...]
    entries: Mapping[str, Entry]


def size_of(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of a tensor of this shape and stored dtype."""
    return math.prod(shape) * np.dtype(STORED[dtype]).itemsize


def read_rows(path: Path, entry: Entry, first: int, last: int) -> np.ndarray:
    """Rows of the first axis, up to `last` and as stored (BF16 as uint16): [last - first, values of a row]."""
    row = size_of(entry.shape[1:], entry.dtype)
    start, stop = first * row, last * row
    parts = []
    for offset, size in entry.runs:
        if start < size and stop > 0:
            begin = max(start, 0)
            parts.append(np.fromfile(path, np.uint8, min(stop, size) - begin, offset=offset + begin))
        start, stop = start - size, stop - size
    raw = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.uint8), *parts])
    if raw.size != (last - first) * row:
        raise OSError(f"{path}: {raw.size} of {(last - first) * row} bytes read; it changed while it was being read")
    return raw.view(STORED[entry.dtype]).reshape(last - first, math.prod(entry.shape[1:]))


def chunks(shape: tuple[int, ...], dtype: str) -> Iterator[tuple[int, int]]:
    """Runs of rows (first, last) that hold about CHUNK bytes each, from the first axis's start to its end."""
    step = max(1, CHUNK // max(size_of(shape[1:], dtype), 1))
    for first in range(0, shape[0], step):
        yield first, min(first + step, shape[0])


def to_float32(raw: np.ndarray, dtype: str) -> np.ndarray:
    """TargetTensor values as float32; the same array where they are."""
    if dtype == "BF16":  # the upper half of a float32
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32, copy=False)


def from_float32(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values as they are stored, rounded to nearest even."""
    if dtype == "BF16":
        bits = values.view(np.uint32)
        return ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return values.astype(STORED[dtype], copy=False)


def gather(pieces: Iterator[np.ndarray], shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """A whole tensor in float32 from its stored rows, some at a time; the very array where one piece holds all."""
    values, first = None, 0
    for rows in pieces:
        if len(rows) == shape[0]:
            values = to_float32(rows, dtype)
            continue  # the generator has its own last words
        if values is None:
            values = np.empty((shape[0], rows.shape[1]), np.float32)
        values[first : first + len(rows)] = to_float32(rows, dtype)
        first += len(rows)
    assert values is not None
    return values.reshape(shape)


class TensorWriter:
    """Writes one file of tensors; each tensor's rows come in order, tensors may alternate."""

    def __init__(self, path: Path, layout: Layout, *, hashed: bool = True) -> None:
        """
        Args:
            hashed: whether `hashes` will be asked for.
        """
        self._entries = layout.entries
        self._written = dict.fromkeys(layout.entries, 0)
        self._hashes = {name: hashlib.sha256() for name in layout.entries} if hashed else {}
        self._file = path.open("wb")
        for offset, text in layout.texts:
            self._file.seek(offset)
            self._file.write(text)

    def write(self, name: str, rows: np.ndarray) -> None:
        """Append rows, of the stored dtype, to a tensor.

        Raises:
            ValueError: more than the tensor's shape holds.
        """
        data: Any = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        start, begin = self._written[name], 0
        for offset, size in self._entries[name].runs:
            if start < size and begin < len(data):
                part = data[begin : begin + size - start]
                self._file.seek(offset + start)
                self._file.write(part)
                start, begin = start + len(part), begin + len(part)
            start -= size
        if begin < len(data):
            raise ValueError(f"{name}: {len(data) - begin} bytes more than its shape holds")
        self._written[name] += len(data)
        if self._hashes:
            self._hashes[name].update(data)

    def hashes(self) -> dict[str, str]:
        """SHA-256 (hex) of each tensor's bytes."""
        return {name: digest.hexdigest() for name, digest in self._hashes.items()}

    def __enter__(self) -> "TensorWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises ValueError where a tensor was not given in full."""
        self._file.close()
        short = [n for n, entry in self._entries.items() if self._written[n] != sum(run.size for run in entry.runs)]
        if short and error is None:
            raise ValueError(f"{len(short)} tensors were not given, such as {short[0]}")
