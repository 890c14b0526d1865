"""Read headers and make layouts of .safetensors files: 8 bytes little-endian header length, a JSON header of name ->
{dtype, shape, data_offsets}, then the data.

The safetensors library checks the headers read here, but its numpy interface has no bfloat16, and it writes only from
tensors that are all in memory; hence this code for the (fixed, published) file layout.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from dscoder_exp.schema.errors import refuse
from dscoder_exp.weights.formats.tensor_io import ByteRange, Entry, Layout, size_of


def read_header(path: Path, key: str) -> dict[str, Entry]:
    """Name -> Entry of every tensor; reads no tensor.

    Raises:
        Refused: the file is damaged or truncated.
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
    entries = {}
    for name, item in header.items():
        start, end = item["data_offsets"]
        entries[name] = Entry(tuple(item["shape"]), item["dtype"], (ByteRange(8 + length + start, end - start),))
    return entries


def safetensors_layout(tensors: Mapping[str, tuple[str, tuple[int, ...]]], framework: str = "pt") -> Layout:
    """The Layout of a .safetensors file.

    Args:
        tensors: name -> dtype (a key of NUMPY_DTYPES) and shape, in the file's order.
        framework: `format` in the file's metadata; transformers requires "pt".
    """
    header: dict[str, object] = {"__metadata__": {"format": framework}}
    runs, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + size_of(shape, dtype)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        runs[name] = ByteRange(start, end - start)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = 8 + len(text)
    entries = {
        name: Entry(shape, dtype, (ByteRange(data + runs[name].offset, runs[name].size),))
        for name, (dtype, shape) in tensors.items()
    }
    return Layout(((0, struct.pack("<Q", len(text)) + text),), entries)
