"""Read PyTorch's files of weights (torch.save of a state_dict: pytorch_model.bin) without PyTorch, and run nothing.

Since PyTorch 1.6 such a file is a zip archive of uncompressed records (torch/serialization.py, _save): NAME/data.pkl, a
pickle of the state_dict in which a tensor is a call of torch._utils._rebuild_tensor_v2, and NAME/data/KEY, the bytes of
each storage. A pickle can call anything; here only the few names below mean something, and any other is refused.
"""

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from dscoder_exp.schema.errors import refuse
from dscoder_exp.weights.formats.tensor_io import ByteRange, Entry

STORAGES = {  # class in torch -> dtype as safetensors spells it, bytes of a value
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
}
LOCAL_HEADER = struct.Struct(
    "<4s22xHH"
)  # of a record in a zip archive: signature, lengths of the name and the extra field
SAVE_AGAIN = (
    "where PyTorch is: python -c 'import sys, torch; f = sys.argv[1]; "
    'torch.save(torch.load(f, map_location="cpu", weights_only=True), f)\' FILE'
)


class StorageType(NamedTuple):
    """A class of torch, such as FloatStorage: the dtype, and the bytes of a value."""

    dtype: str
    size: int


class Storage(NamedTuple):
    """Values in the archive, which several tensors may share."""

    type: StorageType
    key: str


class StoredTensor(NamedTuple):
    """A view of a storage: where it begins and its steps along each axis, in values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> StoredTensor:
    """What torch._utils._rebuild_tensor_v2 is called with, checked."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise ValueError("a tensor without a storage")
    if not all(isinstance(number, int) and 0 <= number < 2**62 for number in numbers):
        raise ValueError(f"a tensor of shape {shape!r} with strides {strides!r} at {offset!r}")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))


def rebuild_parameter(tensor: Any, requires_grad: Any, hooks: Any) -> Any:
    """What torch._utils._rebuild_parameter is called with: the tensor."""
    return tensor


class Unpickler(pickle.Unpickler):
    """Knows state_dicts of plain tensors alone."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return StorageType(*STORAGES[name])
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *values: rebuild_tensor(*values),
            ("torch._utils", "_rebuild_parameter"): lambda *values: rebuild_parameter(*values),
        }
        if (module, name) not in known:
            raise ValueError(f"it needs {module}.{name}, which is no tensor")
        return known[module, name]  # a new function each time: a pickle may set attributes of what it gets

    def persistent_load(self, pid: Any) -> Storage:
        kind, of_type, key, _device, _count = pid
        if kind != "storage" or not isinstance(of_type, StorageType) or not isinstance(key, str):
            raise ValueError(f"a reference to {pid!r}")
        return Storage(of_type, key)


def read_torch(path: Path, key: str) -> dict[str, Entry]:
    """Name -> Entry of every tensor; reads no tensor, and runs no code from the file.

    Raises:
        Refused: the file is of a PyTorch before 1.6, holds other things than tensors, or is damaged.
    """
    if not zipfile.is_zipfile(path):
        what = f"{path}: not a zip archive, as PyTorch writes since 1.6; it is of an older one, or damaged"
        raise refuse(key, what, SAVE_AGAIN)
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            name = next((item for item in archive.namelist() if item.endswith("/data.pkl")), "data.pkl")
            folder = name.removesuffix("data.pkl")
            if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
                raise ValueError("its byte order differs from this machine's")
            found = Unpickler(BytesIO(archive.read(name))).load()
            records = {item.filename: item for item in archive.infolist()}
            return {name: _entry(tensor, folder, records, file) for name, tensor in _tensors(found).items()}
    except Exception as error:  # a pickle can raise anything
        what = f"{path}: not a readable file of PyTorch weights ({error})"
        raise refuse(key, what, f"copy the file again; or save the model's state_dict() alone, {SAVE_AGAIN}") from error


def _tensors(found: Any) -> dict[str, StoredTensor]:
    if not isinstance(found, dict) or not found:
        raise ValueError("no state_dict")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, StoredTensor):
            raise ValueError(f"{name!r} is not a tensor")
    return found


def _entry(tensor: StoredTensor, folder: str, records: dict[str, zipfile.ZipInfo], file: Any) -> Entry:
    """The bytes from the tensor's first to its last value, in the file."""
    dtype, size = tensor.storage.type
    record = records[f"{folder}data/{tensor.storage.key}"]
    if record.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{record.filename} is compressed")
    empty = 0 in tensor.shape
    last = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides, strict=True))
    count = 0 if empty else last + 1
    if (tensor.offset + count) * size > record.file_size:
        raise ValueError(f"{record.filename} has {record.file_size} bytes, fewer than a tensor of it needs")
    file.seek(record.header_offset)
    signature, name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise ValueError(f"{record.filename} is not where the archive says")
    begin = record.header_offset + LOCAL_HEADER.size + name + extra
    if begin + record.file_size > file.seek(0, SEEK_END):
        raise ValueError(f"{record.filename} ends after the file")
    run = ByteRange(begin + tensor.offset * size, count * size)
    strides = None if empty or _is_contiguous(tensor.shape, tensor.strides) else tensor.strides
    return Entry(tensor.shape, dtype, (run,), strides)


def _is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    expected = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True
