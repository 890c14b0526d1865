"""One .safetensors file: its header, its tensors as float32, and writing one as the tensors come.

The safetensors library checks what is read here, but its numpy side knows no bfloat16, and it writes only from all
tensors in memory at once; hence the two small functions that use the (fixed, published) layout directly:
8 bytes little-endian header length, a JSON header of name -> {dtype, shape, data_offsets}, then the data.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from dscoder_exp.schema.errors import refuse

FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


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
    odd = sorted({item["dtype"] for item in header.values()} - set(FLOATS))
    if odd:
        remedy = "give weights in fp32, fp16 or bf16"
        raise refuse(key, f"{path}: holds tensors of dtype {', '.join(odd)}", remedy)
    return {
        name: Entry(tuple(item["shape"]), item["dtype"], 8 + length + item["data_offsets"][0])
        for name, item in header.items()
    }


def read_tensor(path: Path, entry: Entry) -> np.ndarray:
    """The tensor as a fresh float32 array of the entry's shape."""
    count = int(np.prod(entry.shape, dtype=np.int64))
    raw = np.fromfile(path, FLOATS[entry.dtype], count, offset=entry.offset)
    if raw.size != count:
        raise OSError(f"{path}: {raw.size} of {count} values read; it changed while it was being read")
    if entry.dtype == "BF16":  # the upper half of a float32
        raw = (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32, copy=False).reshape(entry.shape)


def write_float32(path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes exactly the tensors that `shapes` names, in any order, holding one at a time.

    Raises:
        ValueError: a tensor is missing, comes twice, is not in `shapes`, or has another shape.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers wants to see "pt"
    starts, end = {}, 0
    for name, shape in shapes.items():
        starts[name], end = end, end + 4 * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [starts[name], end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in tensors:
            if name not in starts:
                raise ValueError(f"{name}: not a tensor of this model, or given twice")
            if tensor.shape != shapes[name]:
                raise ValueError(f"{name}: shape {tensor.shape}, expected {shapes[name]}")
            file.seek(8 + len(text) + starts.pop(name))
            np.ascontiguousarray(tensor, np.float32).tofile(file)
    if starts:
        raise ValueError(f"{len(starts)} tensors were not given, such as {next(iter(starts))}")
