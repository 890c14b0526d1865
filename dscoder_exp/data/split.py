"""Choosing the documents to hold out for the eval loss, by their text alone."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.data.rows import AnyRow, row_content


def document_hashes(rows: Sequence[AnyRow], row_indices: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The hash that decides each document's split: uint64 [documents].

    It is the hash of the document's row, so all documents of a long text are in the same split. If all documents come
    from a single text, each has a hash of its own: otherwise one of the splits would be empty.

    Args:
        row_indices: int64 [documents], the index of each document's row.
    """
    kept, inverse = np.unique(row_indices, return_inverse=True)
    if len(kept) > 1:
        hashes = [_hash(rows[index], size=8) for index in kept]
        return np.array([int.from_bytes(hashed) for hashed in hashes], np.uint64)[inverse]
    text = _hash(rows[kept[0]], size=64)
    parts = (blake2b(text + str(part).encode(), digest_size=8).digest() for part in range(len(row_indices)))
    return np.array([int.from_bytes(hashed) for hashed in parts], np.uint64)


def _hash(row: AnyRow, size: int) -> bytes:
    hashed = blake2b(digest_size=size)
    for part in row_content(row):
        hashed.update(part)
    return hashed.digest()


def hold_out(hashes: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_]:
    """True for the documents to hold out, those with a hash in the lowest `fraction` of all uint64: bool [documents].

    Documents with equal hashes are always in the same split. If there are two different hashes and `fraction` isn't 0,
    neither split is empty.
    """
    if fraction == 0 or hashes.min() == hashes.max():
        return np.zeros(len(hashes), np.bool_)
    chosen = hashes < np.uint64(fraction * 2**64)
    return (chosen | (hashes == hashes.min())) & (hashes != hashes.max())
