"""A faster GGUFReader, with metadata as Python values."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType

from dscoder_exp.schema.errors import refuse
from dscoder_exp.storage.file_names import gguf_parts

ARRAY_HEAD = struct.Struct("<IQ")  # header of an array: item type, item count
LENGTH = struct.Struct("<Q")  # header of a string: its length in bytes
MAX_PARTS_SHOWN = 5  # in a message


class Reader(GGUFReader):
    """Keeps each array as one object: gguf makes two per entry, which takes 2 s for a vocabulary of 150,000."""

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[GGUFValueType]]:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        if self.byte_order == "S":
            raise ValueError("its byte order differs from this machine's")
        head = self._get(orig_offs, np.uint8, ARRAY_HEAD.size)
        item_type, count = ARRAY_HEAD.unpack(head.tobytes())
        start = orig_offs + ARRAY_HEAD.size
        if item_type == GGUFValueType.STRING:
            items = self._get(start, np.uint8, sum(LENGTH.size + len(text) for text in self._strings(start, count)))
        elif item_type in self.gguf_scalar_to_np:
            items = self._get(start, self.gguf_scalar_to_np[GGUFValueType(item_type)], count)
        else:
            raise ValueError(f"an array with items of unsupported type {item_type}")
        return ARRAY_HEAD.size + items.nbytes, [head, items], [1], [GGUFValueType.ARRAY, GGUFValueType(item_type)]

    def _strings(self, start: int, count: int) -> Iterator[memoryview]:
        data = self.data.data
        for _ in range(count):
            (length,) = LENGTH.unpack_from(data, start)
            start += LENGTH.size
            yield data[start : start + length]
            start += length

    def value(self, key: str) -> Any:
        """A metadata value as a Python object (an array as a list); None if the key is absent."""
        field = self.get_field(key)
        if field is None:
            return None
        if field.types != [GGUFValueType.ARRAY, GGUFValueType.STRING]:
            return field.contents()
        head = field.parts[field.data[0] - 1]
        start = field.offset + sum(part.nbytes for part in field.parts[: field.data[0]])
        return [str(text, "utf-8") for text in self._strings(start, ARRAY_HEAD.unpack(head.tobytes())[1])]


def open_reader(path: Path, key: str) -> Reader:
    """Open a GGUF file, which stays memory-mapped; reads the metadata and the list of tensors.

    Raises:
        Refused: the file is not GGUF, or it is damaged or truncated.
    """
    try:
        return Reader(path)
    except (ValueError, KeyError, IndexError, OverflowError, struct.error, OSError) as error:
        what = f"{path}: not a readable GGUF file ({error})"
        raise refuse(key, what, "copy or download the file again") from error


def open_parts(path: Path, key: str) -> list[Reader]:
    """Open a GGUF file, or all parts of one that llama.cpp has split, in order: the first has the metadata.

    Raises:
        Refused: as `open_reader` does; a part is missing, or the parts are of several files.
    """
    files = [path.with_name(name) for name in gguf_parts(path.name)]
    if missing := [file.name for file in files if not file.is_file()]:
        shown = ", ".join(missing[:MAX_PARTS_SHOWN]) + (", …" if len(missing) > MAX_PARTS_SHOWN else "")
        what = f"{path}: {len(missing)} of {len(files)} parts are missing beside it: {shown}"
        raise refuse(key, what, "put all parts into one directory")
    readers = [open_reader(file, key) for file in files]
    if (count := readers[0].value("split.count") or 1) != len(files):
        what = f"{path}: one of {count} parts by its metadata, but not by its name"
        raise refuse(key, what, "name the parts NAME-00001-of-00003.gguf and so on, as they were")
    found = sum(len(reader.tensors) for reader in readers)
    if (expected := readers[0].value("split.tensors.count")) not in (None, found):
        what = f"{path}: the parts hold {found} tensors, and should hold {expected}"
        raise refuse(key, what, "copy all parts of one file again")
    return readers


def shortest_decimal(value: float | None) -> float | None:
    """The shortest decimal that rounds to this float32: 1e-5 for 9.999999747378752e-06; a whole number as it is."""
    return value if value is None or isinstance(value, int) else float(str(np.float32(value)))
