"""AdamW's moments in a checkpoint: each rank writes the shards that it owns to a file; any layout can read them back.

training.json records {ways: number of tensor-parallel ranks, files: {name: {rank: the tensor rank, pieces: {tensor:
[first, last]}, sha256: {entry: hex}}}}. A shard is elements [first, last) of that tensor rank's part of the tensor
(weights/native/layout.py), flattened row by row; fp32. Never imports mindspore.
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
from dscoder_exp.training.state import EARLIER, RESUME, START_ANEW
from dscoder_exp.weights.formats.safetensors_file import read_header, safetensors_layout
from dscoder_exp.weights.formats.tensor_io import Entry, TensorWriter, read_rows, row_ranges
from dscoder_exp.weights.native.layout import rank_slice

MOMENTS = ("first", "second")


def moments_file(rank: int, ranks: int) -> str:
    """Name of the file that global rank `rank` of `ranks` writes."""
    return "optimizer.safetensors" if ranks == 1 else f"optimizer-rank-{rank:02d}-of-{ranks:02d}.safetensors"


def write_moments(
    file: Path, tensor_rank: int, owned: Sequence[FlatShard], moments: Iterable[Sequence[NDArray[np.float32]]]
) -> dict[str, Any]:
    """Write one rank's file.

    Args:
        tensor_rank: its rank in the tensor-parallel group.
        owned: the shards that it owns.
        moments: (first, second) moment of each shard, fp32 of any shape; consumed one shard at a time.

    Returns:
        The file's record for training.json.
    """
    shapes = {shard.name: (shard.last - shard.first,) for shard in owned}
    layout = safetensors_layout(
        {f"{which}.{name}": ("F32", shape) for name, shape in shapes.items() for which in MOMENTS}
    )
    with TensorWriter(file, layout) as writer:
        for shard, pair in zip(owned, moments, strict=True):
            for which, array in zip(MOMENTS, pair, strict=True):
                writer.write(f"{which}.{shard.name}", array.reshape(-1))
    extents = {shard.name: [shard.first, shard.last] for shard in owned}
    return {"rank": tensor_rank, "pieces": extents, "sha256": writer.hashes()}


class StoredMoments:
    """The moments in a checkpoint, read tensor by tensor."""

    def __init__(
        self, checkpoint: Path, record: Mapping[str, Any], config: LlamaConfig, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        """
        Args:
            record: the optimizer record of training.json; see the module's docstring.
            shapes: whole shape of each trained tensor.

        Raises:
            Refused: a file is missing, or its header is damaged.
        """
        self._checkpoint, self._record, self._config, self._shapes = checkpoint, record, config, shapes
        self._headers = {name: read_header(checkpoint / name, RESUME) for name in record["files"]}

    def fill(
        self, rank: int, tp_size: int, owned: Sequence[FlatShard], arrays: Sequence[Sequence[NDArray[np.float32]]]
    ) -> None:
        """Read the moments of a rank's shards into `arrays`, one whole tensor at a time, whatever layout wrote them.

        Args:
            rank: tensor rank among the `tp_size` of the running job.
            owned: the rank's shards.
            arrays: the first moments of `owned`, then the second ones: fp32, of any shape, written in place.

        Raises:
            Refused: the content of a file has changed, or doesn't fit this model.
        """
        for number, shard in enumerate(owned):
            part = rank_slice(shard.name, self._shapes[shard.name], self._config, rank, tp_size)
            for which, into in zip(MOMENTS, arrays, strict=True):
                values = part.take(self._read_whole(which, shard.name)).reshape(-1)[shard.first : shard.last]
                into[number].reshape(-1)[:] = values

    def _read_whole(self, which: str, name: str) -> NDArray[np.float32]:
        """Moment `which` of one tensor, assembled from the shards of all ranks that wrote it."""
        shape, tp_size, found = self._shapes[name], self._record["ways"], 0
        whole = np.empty(shape, np.float32)
        for rank in range(tp_size):
            part = rank_slice(name, shape, self._config, rank, tp_size)
            own = np.empty(part.shape(shape), np.float32)
            for first, last, values in self._stored_shards(which, name, rank):
                own.reshape(-1)[first:last] = values
                found += last - first
            whole[part.slices] = own
        if found != sum(rank_slice(name, shape, self._config, rank, tp_size).size(shape) for rank in range(tp_size)):
            raise refuse(RESUME, f"{self._checkpoint} lacks a part of {which}.{name}", START_ANEW)
        return whole

    def _stored_shards(self, which: str, name: str, rank: int) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        """(first, last, fp32 values) of each stored shard of tensor rank `rank`'s part of the tensor."""
        key = f"{which}.{name}"
        for file, written in self._record["files"].items():
            if written["rank"] == rank and name in written["pieces"]:
                first, last = written["pieces"][name]
                entry = self._headers[file].get(key)
                if entry is None or (entry.shape, entry.dtype) != ((last - first,), "F32"):
                    raise refuse(
                        RESUME,
                        f"{self._checkpoint / file} lacks {key}, or has it in another shape or dtype",
                        START_ANEW,
                    )
                yield first, last, _read(self._checkpoint / file, key, entry, written["sha256"].get(key))


def _read(file: Path, key: str, entry: Entry, sha256: str | None) -> NDArray[np.float32]:
    digest, values = hashlib.sha256(), np.empty(entry.shape, np.float32)
    for first, last in row_ranges(entry.shape, entry.dtype):
        values[first:last] = read_rows(file, entry, first, last)[:, 0]
        digest.update(values[first:last])  # type: ignore[arg-type]  # an array is a buffer
    if digest.hexdigest() != sha256:
        raise refuse(RESUME, f"{file}, {key}: its content has changed since it was written (SHA-256 differs)", EARLIER)
    return values
