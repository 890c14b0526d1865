"""Reading and writing packed sequences in MindRecord files. MindSpore is imported only when a file is used."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from threading import Thread

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.data.batch import FIELDS, Batch


@contextmanager
def imported_in_background() -> Iterator[None]:
    """Import what `write` needs, 1.5 s of Python, while the body has the tokenizer's threads at work.

    It is waited for, also when the body raises: Python aborts if it ends amid MindSpore's import.
    """
    thread = Thread(target=import_module, args=("mindspore.mindrecord",), name="mindrecord-import")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def write(path: Path, batches: Iterable[Batch], seq_length: int) -> None:
    """Write batches of sequences to `path`, and MindRecord's index to `path`.db.

    A MindRecord file holds its own file name: its directory may be renamed afterwards, the file may not.
    """
    from mindspore.mindrecord import FileWriter

    writer = FileWriter(str(path), overwrite=True)
    writer.add_schema({field: {"type": "int32", "shape": [seq_length]} for field in FIELDS}, "packed sequences")
    for batch in batches:
        writer.write_raw_data([{field: getattr(batch, field)[row] for field in FIELDS} for row in range(len(batch))])
    writer.commit()


def read(path: Path, rows: NDArray[np.int64], count: int) -> Iterator[tuple[NDArray[np.int32], ...]]:
    """Stream sequences in the order of `rows`; each is a tuple of FIELDS, int32 [seq_length].

    Args:
        rows: indices into the file; may repeat.
        count: number of sequences in the file.
    """
    from mindspore.dataset import MindDataset, SubsetSampler

    for first in range(0, len(rows), count):  # SubsetSampler takes no more indices than the file has rows
        sampler = SubsetSampler(rows[first : first + count].tolist())
        data = MindDataset(str(path), columns_list=list(FIELDS), sampler=sampler, num_parallel_workers=1)
        for row in data.create_tuple_iterator(num_epochs=1, output_numpy=True):
            yield tuple(row)
