"""Tensors in files: their dtypes and byte ranges, and reading and writing them in chunks of rows."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

NUMPY_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}  # numpy has no bfloat16

CHUNK_BYTES = 32 * 1024**2  # bytes that are read, hashed and written at once


class ByteRange(NamedTuple):
    """A contiguous range of bytes in a file."""

    offset: int
    size: int


class Entry(NamedTuple):
    """A tensor in a file: its shape, dtype (as safetensors spells it, if in NUMPY_DTYPES), and byte ranges in order.

    strides: steps along each axis, in values, within the one range; None: row by row, without gaps.
    """

    shape: tuple[int, ...]
    dtype: str
    ranges: tuple[ByteRange, ...]
    strides: tuple[int, ...] | None = None


class Layout(NamedTuple):
    """A file to be written: (offset, bytes) of the headers around the tensors, and each tensor's Entry by name."""

    headers: tuple[tuple[int, bytes], ...]
    entries: Mapping[str, Entry]


def size_of(shape: tuple[int, ...], dtype: str) -> int:
    """Size in bytes of a tensor of this shape and stored dtype."""
    return math.prod(shape) * np.dtype(NUMPY_DTYPES[dtype]).itemsize


def read_rows(path: Path, entry: Entry, first: int, last: int) -> np.ndarray:
    """Read rows [first, last) of the first axis as stored (BF16 as uint16): [last - first, values per row]."""
    if entry.strides is not None:
        return _read_strided(path, entry, first, last)
    row = size_of(entry.shape[1:], entry.dtype)
    start, stop = first * row, last * row
    parts = []
    for offset, size in entry.ranges:
        if start < size and stop > 0:
            begin = max(start, 0)
            parts.append(np.fromfile(path, np.uint8, min(stop, size) - begin, offset=offset + begin))
        start, stop = start - size, stop - size
    raw = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.uint8), *parts])
    if raw.size != (last - first) * row:
        raise OSError(f"{path}: {raw.size} of {(last - first) * row} bytes read; it changed while it was being read")
    return raw.view(NUMPY_DTYPES[entry.dtype]).reshape(last - first, math.prod(entry.shape[1:]))


def _read_strided(path: Path, entry: Entry, first: int, last: int) -> np.ndarray:
    dtype = np.dtype(NUMPY_DTYPES[entry.dtype])
    (run,), strides = entry.ranges, entry.strides or ()
    values = np.memmap(path, dtype, "r", run.offset, (run.size // dtype.itemsize,))
    whole = np.lib.stride_tricks.as_strided(values, entry.shape, [step * dtype.itemsize for step in strides])
    return np.array(whole[first:last]).reshape(last - first, math.prod(entry.shape[1:]))


def row_ranges(shape: tuple[int, ...], dtype: str) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows (first, last) of about CHUNK_BYTES each, which cover the first axis."""
    step = max(1, CHUNK_BYTES // max(size_of(shape[1:], dtype), 1))
    for first in range(0, shape[0], step):
        yield first, min(first + step, shape[0])


def to_float32(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Stored values as float32; the same array if it is float32 already."""
    if dtype == "BF16":  # the upper half of a float32
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32, copy=False)


def from_float32(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values in the stored dtype, rounded to nearest even."""
    if dtype == "BF16":
        bits = values.view(np.uint32)
        return ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return values.astype(NUMPY_DTYPES[dtype], copy=False)


def gather(chunks: Iterator[np.ndarray], shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """A whole float32 tensor from chunks of its stored rows; not copied if one float32 chunk holds all rows."""
    values, first = None, 0
    for rows in chunks:
        if len(rows) == shape[0]:
            values = to_float32(rows, dtype)
            continue  # not break: the generator checks the SHA-256 after its last chunk
        if values is None:
            values = np.empty((shape[0], rows.shape[1]), np.float32)
        values[first : first + len(rows)] = to_float32(rows, dtype)
        first += len(rows)
    assert values is not None
    return values.reshape(shape)


class TensorWriter:
    """Writes one file of tensors; a tensor's rows are written in order, but tensors may be interleaved."""

    def __init__(self, path: Path, layout: Layout, *, hashed: bool = True) -> None:
        """
        Args:
            hashed: compute SHA-256 for `hashes`.
        """
        self._entries = layout.entries
        self._written = dict.fromkeys(layout.entries, 0)
        self._hashes = {name: hashlib.sha256() for name in layout.entries} if hashed else {}
        self._file = path.open("wb")
        for offset, text in layout.headers:
            self._file.seek(offset)
            self._file.write(text)

    def write(self, name: str, rows: np.ndarray) -> None:
        """Append rows, in the stored dtype, to a tensor.

        Raises:
            ValueError: more rows than the tensor's shape has.
        """
        data: Any = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        start, begin = self._written[name], 0
        for offset, size in self._entries[name].ranges:
            if start < size and begin < len(data):
                part = data[begin : begin + size - start]
                self._file.seek(offset + start)
                self._file.write(part)
                start, begin = start + len(part), begin + len(part)
            start -= size
        if begin < len(data):
            raise ValueError(f"{name}: {len(data) - begin} bytes more than its shape has")
        self._written[name] += len(data)
        if self._hashes:
            self._hashes[name].update(data)

    def hashes(self) -> dict[str, str]:
        """Tensor name -> SHA-256 (hex) of its bytes; empty if not `hashed`."""
        return {name: digest.hexdigest() for name, digest in self._hashes.items()}

    def __enter__(self) -> "TensorWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises ValueError if a tensor was not written completely."""
        self._file.close()
        short = [n for n, entry in self._entries.items() if self._written[n] != sum(run.size for run in entry.ranges)]
        if short and error is None:
            raise ValueError(f"{len(short)} tensors were not written completely, such as {short[0]}")
