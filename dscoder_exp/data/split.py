"""Which documents are kept from training, for the eval loss: chosen by their text alone."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.data.rows import AnyRow, row_content


def document_hashes(rows: Sequence[AnyRow], sources: NDArray[np.int64]) -> NDArray[np.uint64]:
    """What decides a document's side, uint64 [documents]: its row's hash, so that a text's parts stay together.

    A single text, though, has nothing to stay apart from: there each part is on its own.

    Args:
        sources: of each document the index of its row, int64 [documents].
    """
    numbers, inverse = np.unique(sources, return_inverse=True)
    if len(numbers) > 1:
        hashes = [_hash(rows[number], size=8) for number in numbers]
        return np.array([int.from_bytes(hashed) for hashed in hashes], np.uint64)[inverse]
    text = _hash(rows[numbers[0]], size=64)
    parts = (blake2b(text + str(part).encode(), digest_size=8).digest() for part in range(len(sources)))
    return np.array([int.from_bytes(hashed) for hashed in parts], np.uint64)


def _hash(row: AnyRow, size: int) -> bytes:
    hashed = blake2b(digest_size=size)
    for part in row_content(row):
        hashed.update(part)
    return hashed.digest()


def hold_out(hashes: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_]:
    """Which documents are for evaluation: those whose hash lies in the lowest `fraction`. bool [documents].

    Equal texts always fall together. Where texts differ at all, both splits get one at least (if `fraction` isn't 0).
    """
    if fraction == 0 or hashes.min() == hashes.max():
        return np.zeros(len(hashes), np.bool_)
    chosen = hashes < np.uint64(fraction * 2**64)
    return (chosen | (hashes == hashes.min())) & (hashes != hashes.max())
