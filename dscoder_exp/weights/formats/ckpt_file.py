"""Read and write MindSpore's .ckpt files without MindSpore.

A file is one protobuf message (mindspore/train/checkpoint.proto). It is parsed here from the wire format, because the
protobuf library would hold all of it in memory:

    message Checkpoint { repeated Value value = 1; }
    message Value { string tag = 1; TensorProto tensor = 2; MapTensorProto maptensor = 3; }
    message TensorProto { repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3; }

A tensor above 512 MB is stored as several consecutive values with the same tag, each with the dims of the whole tensor.
"""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dscoder_exp.schema.errors import refuse
from dscoder_exp.weights.formats.tensor_io import NUMPY_DTYPES, ByteRange, Entry, Layout, size_of

TYPES = {"Float64": "F64", "Float32": "F32", "Float16": "F16", "BFloat16": "BF16"}
TYPE_NAMES = {dtype: name for name, dtype in TYPES.items()}
MAX_VALUE_BYTES = 512 * 1024**2  # largest content of one value
CHECKSUM, CHECKSUM_DIGITS = b"crc_num", 10  # save_checkpoint(crc_check=True) appends it to the message
VARINT, BYTES = 0, 2  # protobuf's wire types
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # how PyTorch's files begin


class Field(NamedTuple):
    """A protobuf field: its number, and either its value (start -1) or the offsets of its bytes."""

    number: int
    value: int
    start: int
    end: int


def read_ckpt(path: Path, key: str) -> dict[str, Entry]:
    """Name -> Entry of every tensor; reads no tensor, and runs no code from the file.

    Raises:
        Refused: the file is not a MindSpore checkpoint, or it is damaged or encrypted.
    """
    with path.open("rb") as file:
        if file.read(4).startswith(PICKLES):
            what = f"{path}: a PyTorch file, not a MindSpore checkpoint"
            raise refuse(key, what, "give a MindSpore .ckpt file, or a directory of pytorch_model.bin and config.json")
        if not path.stat().st_size:
            raise refuse(key, f"{path}: an empty file", "copy the file again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _entries(data)
            except (ValueError, IndexError) as error:
                what = f"{path}: not a readable MindSpore checkpoint ({error})"
                raise refuse(key, what, "copy the file again; an encrypted one has to be decrypted first") from error


def _entries(data: mmap.mmap) -> dict[str, Entry]:
    end = len(data)
    if data[end - len(CHECKSUM) - CHECKSUM_DIGITS : end - CHECKSUM_DIGITS] == CHECKSUM:
        end -= len(CHECKSUM) + CHECKSUM_DIGITS
    entries: dict[str, Entry] = {}
    last = None
    for value in _fields(data, 0, end):
        if value.number != 1 or value.start < 0:
            raise ValueError(f"unexpected field {value.number} at the top level")
        name, entry = _value(data, value)
        if name in entries:
            before = entries[name]
            if name != last or before[:2] != entry[:2]:
                raise ValueError(f"{name} occurs twice")
            entry = before._replace(ranges=before.ranges + entry.ranges)
        entries[name], last = entry, name
    for name, entry in entries.items():
        found = sum(run.size for run in entry.ranges)
        if entry.dtype in NUMPY_DTYPES and found != size_of(entry.shape, entry.dtype):
            raise ValueError(f"{name} has {found} bytes, not the size of {entry.dtype} {list(entry.shape)}")
    return entries


def _value(data: mmap.mmap, value: Field) -> tuple[str, Entry]:
    name, entry = "", None
    for field in _fields(data, value.start, value.end):
        if field.number == 1:
            name = _text(data, field)
        elif field.number == 2:
            entry = _tensor(data, field)
        elif field.number == 3:
            entry = Entry((), "MapTensor", ())
    if not name or entry is None:
        raise ValueError("a value without a name or a tensor")
    return name, entry


def _tensor(data: mmap.mmap, tensor: Field) -> Entry:
    dims: list[int] = []
    dtype, run = "", None
    for field in _fields(data, tensor.start, tensor.end):
        if field.number == 1:  # one dim, or all of them packed
            packed = field.start
            dims += [field.value] if packed < 0 else []
            while 0 <= packed < field.end:
                dim, packed = _varint(data, packed, field.end)
                dims.append(dim)
        elif field.number == 2:
            dtype = _text(data, field)
        elif field.number == 3 and field.start >= 0:
            run = ByteRange(field.start, field.end - field.start)
    if run is None:
        raise ValueError("a tensor without content")
    return Entry(() if dims == [0] else tuple(dims), TYPES.get(dtype, dtype), (run,))


def _text(data: mmap.mmap, field: Field) -> str:
    if field.start < 0:
        raise ValueError("a number where text is expected")
    return str(data[field.start : field.end], "utf-8")


def _fields(data: mmap.mmap, position: int, end: int) -> Iterator[Field]:
    while position < end:
        tag, position = _varint(data, position, end)
        if tag & 7 == VARINT:
            value, position = _varint(data, position, end)
            yield Field(tag >> 3, value, -1, -1)
        elif tag & 7 == BYTES:
            size, position = _varint(data, position, end)
            if position + size > end:
                raise ValueError(f"{position + size - end} bytes are missing at the end")
            yield Field(tag >> 3, size, position, position + size)
            position += size
        else:
            raise ValueError(f"unsupported wire type {tag & 7}")


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    """The varint at `position` (seven bits per byte, lowest first), and the offset of its end."""
    value = 0
    for shift in range(0, 63, 7):
        if position >= end:
            raise ValueError("the file ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than 63 bits")


def ckpt_layout(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> Layout:
    """The Layout of a .ckpt file.

    Args:
        tensors: name -> dtype (a key of NUMPY_DTYPES) and shape, in the file's order.
    """
    headers, entries, position = [], {}, 0
    for name, (dtype, shape) in tensors.items():
        ranges = []
        for size in _value_sizes(shape, dtype):
            text = _value_header(name, dtype, shape, size)
            headers.append((position, text))
            ranges.append(ByteRange(position + len(text), size))
            position += len(text) + size
        entries[name] = Entry(shape, dtype, tuple(ranges))
    return Layout(tuple(headers), entries)


def _value_sizes(shape: tuple[int, ...], dtype: str) -> list[int]:
    """Content sizes, in bytes, of the values that a tensor is split into, each of whole rows."""
    row = size_of(shape[1:], dtype)
    rows = max(1, MAX_VALUE_BYTES // row)
    return [min(rows, shape[0] - first) * row for first in range(0, shape[0], rows)]


def _value_header(name: str, dtype: str, shape: tuple[int, ...], size: int) -> bytes:
    """The bytes of a value before its tensor's content, which comes last."""
    dims = b"".join(b"\x08" + _as_varint(dim) for dim in shape)
    tensor = dims + _prefixed(b"\x12", TYPE_NAMES[dtype].encode()) + b"\x1a" + _as_varint(size)
    value = _prefixed(b"\x0a", name.encode()) + b"\x12" + _as_varint(len(tensor) + size) + tensor
    return b"\x0a" + _as_varint(len(value) + size) + value


def _prefixed(tag: bytes, content: bytes) -> bytes:
    return tag + _as_varint(len(content)) + content


def _as_varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
