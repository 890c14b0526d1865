"""AdamW's moments in a checkpoint: a file a rank, with the pieces that it owns; read back into any other layout.

Recorded in training.json: {ways: tensor-parallel ranks, files: {name: {rank: the tensor rank, pieces: {tensor: [first,
last]}, sha256: {entry: hex}}}}. A shard is flat: from the first value to the last, in rows, of what that tensor rank
holds of the tensor (weights/native/layout.py). Never imports mindspore.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.parallel.buckets import FlatShard
from dscoder_exp.schema.errors import refuse
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.training.state import RESUME, START_ANEW
from dscoder_exp.weights.formats.safetensors_file import read_header, safetensors_layout
from dscoder_exp.weights.formats.tensor_io import Entry, TensorWriter, read_rows, row_ranges
from dscoder_exp.weights.native.layout import rank_slice

MOMENTS = ("first", "second")


def moments_file(rank: int, ranks: int) -> str:
    return "optimizer.safetensors" if ranks == 1 else f"optimizer-rank-{rank:02d}-of-{ranks:02d}.safetensors"


def write_moments(
    file: Path, tensor_rank: int, owned: Sequence[FlatShard], moments: Iterable[Sequence[NDArray[np.float32]]]
) -> dict[str, Any]:
    """Writes one rank's file.

    Args:
        owned: what the rank owns, shard by shard.
        moments: of each shard the first and second moment, of any shape; taken one at a time.

    Returns:
        What is recorded of it.
    """
    lengths = {shard.name: (shard.last - shard.first,) for shard in owned}
    layout = safetensors_layout({f"{which}.{name}": ("F32", at) for name, at in lengths.items() for which in MOMENTS})
    with TensorWriter(file, layout) as writer:
        for shard, pair in zip(owned, moments, strict=True):
            for which, array in zip(MOMENTS, pair, strict=True):
                writer.write(f"{which}.{shard.name}", array.reshape(-1))
    extents = {shard.name: [shard.first, shard.last] for shard in owned}
    return {"rank": tensor_rank, "pieces": extents, "sha256": writer.hashes()}


class StoredMoments:
    """Those of a checkpoint."""

    def __init__(
        self, checkpoint: Path, record: Mapping[str, Any], config: LlamaConfig, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        """
        Args:
            record: training.json's.
            config: the model's.
            shapes: of all that is trained, whole.

        Raises:
            Refused: a file is missing or damaged.
        """
        self._checkpoint, self._record, self._config, self._shapes = checkpoint, record, config, shapes
        self._headers = {name: read_header(checkpoint / name, RESUME) for name in record["files"]}

    def fill(
        self, rank: int, tp_size: int, owned: Sequence[FlatShard], arrays: Sequence[Sequence[NDArray[np.float32]]]
    ) -> None:
        """Read what a rank owns; of a tensor at a time all, whatever layout it was written in.

        Args:
            rank, tp_size: the tensor rank, of how many.
            arrays: the first moments of `owned`, and the second ones, of any shape.

        Raises:
            Refused: a file is changed, or of another model.
        """
        for number, shard in enumerate(owned):
            part = rank_slice(shard.name, self._shapes[shard.name], self._config, rank, tp_size)
            for which, into in zip(MOMENTS, arrays, strict=True):
                values = part.take(self._whole(which, shard.name)).reshape(-1)[shard.first : shard.last]
                into[number].reshape(-1)[:] = values

    def _whole(self, which: str, name: str) -> NDArray[np.float32]:
        shape, tp_size, found = self._shapes[name], self._record["ways"], 0
        whole = np.empty(shape, np.float32)
        for rank in range(tp_size):
            part = rank_slice(name, shape, self._config, rank, tp_size)
            own = np.empty(part.shape(shape), np.float32)
            for first, last, values in self._pieces(which, name, rank):
                own.reshape(-1)[first:last] = values
                found += last - first
            whole[part.slices] = own
        if found != sum(rank_slice(name, shape, self._config, rank, tp_size).size(shape) for rank in range(tp_size)):
            raise refuse(RESUME, f"{self._checkpoint} holds no whole {which}.{name} of this model", START_ANEW)
        return whole

    def _pieces(self, which: str, name: str, rank: int) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        key = f"{which}.{name}"
        for file, item in self._record["files"].items():
            if item["rank"] == rank and name in item["pieces"]:
                first, last = item["pieces"][name]
                entry = self._headers[file].get(key)
                if entry is None or (entry.shape, entry.dtype) != ((last - first,), "F32"):
                    raise refuse(RESUME, f"{self._checkpoint / file} holds no {key} of this model", START_ANEW)
                yield first, last, _read(self._checkpoint / file, key, entry, item["sha256"].get(key))


def _read(file: Path, key: str, entry: Entry, sha256: str | None) -> NDArray[np.float32]:
    digest, values = hashlib.sha256(), np.empty(entry.shape, np.float32)
    for first, last in row_ranges(entry.shape, entry.dtype):
        values[first:last] = read_rows(file, entry, first, last)[:, 0]
        digest.update(values[first:last])  # type: ignore[arg-type]  # an array is a buffer
    if digest.hexdigest() != sha256:
        raise refuse(RESUME, f"{file}, {key}: its content has changed (SHA-256)", "take an earlier checkpoint")
    return values
