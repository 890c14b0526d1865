"""The fields of prepared data: the same in a file, in a batch and in the training step."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.schema.llama import IGNORE_INDEX

PADDING = -1  # the document number of a padded position
FIELDS = ("ids", "labels", "positions", "documents")


@dataclass(frozen=True)
class Batch:
    """B sequences of T positions, each with one or more documents and then padding. All fields int32 [B, T].

    Attributes:
        ids: token ids; pad_token_id in padding.
        labels: the token to predict at each position (already shifted by one); -100: not counted by the loss.
        positions: 0, 1, 2, … from the start of each document; 0 in padding.
        documents: number of the document in its sequence, from 0; -1: padding. Attention stays within a document.
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    positions: NDArray[np.int32]
    documents: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def useful_tokens(self) -> int:
        """Number of positions that aren't padding."""
        return int((self.documents != PADDING).sum())

    @property
    def loss_tokens(self) -> int:
        """Number of positions that the loss counts."""
        return int((self.labels != IGNORE_INDEX).sum())


def empty_batch(sequences: int, seq_length: int, pad_token_id: int) -> Batch:
    """A batch of padding only: [sequences, seq_length]."""
    shape = (sequences, seq_length)
    return Batch(
        ids=np.full(shape, pad_token_id, np.int32),
        labels=np.full(shape, IGNORE_INDEX, np.int32),
        positions=np.zeros(shape, np.int32),
        documents=np.full(shape, PADDING, np.int32),
    )
