"""gguf's reader without its slow start, and its metadata as Python values."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType

from dscoder_exp.schema.errors import refuse

ARRAY_HEAD = struct.Struct("<IQ")  # an array starts with its items' type and their number
LENGTH = struct.Struct("<Q")  # a string starts with its length


class Reader(GGUFReader):
    """Keeps each array in one piece: gguf makes two objects of each of 150,000 vocabulary entries, which takes 2 s."""

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[GGUFValueType]]:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        if self.byte_order == "S":
            raise ValueError("its byte order is not this machine's")
        head = self._get(orig_offs, np.uint8, ARRAY_HEAD.size)
        item_type, count = ARRAY_HEAD.unpack(head.tobytes())
        start = orig_offs + ARRAY_HEAD.size
        if item_type == GGUFValueType.STRING:
            items = self._get(start, np.uint8, sum(LENGTH.size + len(text) for text in self._strings(start, count)))
        elif item_type in self.gguf_scalar_to_np:
            items = self._get(start, self.gguf_scalar_to_np[GGUFValueType(item_type)], count)
        else:
            raise ValueError(f"an array of items of type {item_type}")
        return ARRAY_HEAD.size + items.nbytes, [head, items], [1], [GGUFValueType.ARRAY, GGUFValueType(item_type)]

    def _strings(self, start: int, count: int) -> Iterator[memoryview]:
        data = self.data.data
        for _ in range(count):
            (length,) = LENGTH.unpack_from(data, start)
            start += LENGTH.size
            yield data[start : start + length]
            start += length

    def value(self, key: str) -> Any:
        """A metadata value as Python has it (an array as a list); None where the key is absent."""
        field = self.get_field(key)
        if field is None:
            return None
        if field.types != [GGUFValueType.ARRAY, GGUFValueType.STRING]:
            return field.contents()
        head = field.parts[field.data[0] - 1]
        start = field.offset + sum(part.nbytes for part in field.parts[: field.data[0]])
        return [str(text, "utf-8") for text in self._strings(start, ARRAY_HEAD.unpack(head.tobytes())[1])]


def open_reader(path: Path, key: str) -> Reader:
    """Reads metadata and the list of tensors; the file stays mapped.

    Raises:
        Refused: not a GGUF file, or damaged or cut short.
    """
    try:
        return Reader(path)
    except (ValueError, KeyError, IndexError, OverflowError, struct.error, OSError) as error:
        what = f"{path}: not a readable GGUF file ({error})"
        raise refuse(key, what, "copy or download the file again") from error
