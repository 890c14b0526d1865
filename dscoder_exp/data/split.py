"""Which documents are kept from training, for the eval loss: chosen by their text alone."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.data.rows import AnyRow, row_text


def document_texts(rows: Sequence[AnyRow], sources: NDArray[np.int64]) -> list[bytes]:
    """For each document what decides its side: its row's text, so that a text's parts stay together.

    A single text, though, has nothing to stay apart from: there each part is on its own.

    Args:
        sources: of each document the index of its row, int64 [documents].
    """
    texts = {index: row_text(rows[index]).encode() for index in set(sources.tolist())}
    if len(texts) == 1:
        ((_, text),) = texts.items()
        return [blake2b(text).digest() + str(part).encode() for part in range(len(sources))]
    return [texts[index] for index in sources.tolist()]


def hold_out(texts: Sequence[bytes], fraction: float) -> NDArray[np.bool_]:
    """Which documents are for evaluation: those whose text's hash lies in the lowest `fraction`. bool [documents].

    Equal texts always fall together. Where texts differ at all, both splits get one at least (if `fraction` isn't 0).
    """
    hashed = {text: int.from_bytes(blake2b(text, digest_size=8).digest()) for text in set(texts)}
    hashes = np.array([hashed[text] for text in texts], np.uint64)
    if fraction == 0 or hashes.min() == hashes.max():
        return np.zeros(len(texts), np.bool_)
    chosen = hashes < np.uint64(fraction * 2**64)
    return (chosen | (hashes == hashes.min())) & (hashes != hashes.max())
