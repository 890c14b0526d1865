"""The shape that prepared data has everywhere: in a file, in a batch, in the training step."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.schema.llama import IGNORE_INDEX

PADDING = -1  # the document number of a padded position
FIELDS = ("ids", "labels", "positions", "documents")


@dataclass(frozen=True)
class Batch:
    """B sequences of T positions, each holding one or more documents and then padding. All int32 [B, T].

    Attributes:
        ids: token ids; the pad id in padding.
        labels: the token to predict at each position (already shifted by one); -100: not counted.
        positions: 0, 1, 2, … from the start of each document; 0 in padding.
        documents: 0, 1, 2, … within the sequence; -1: padding. Attention stays within one number.
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    positions: NDArray[np.int32]
    documents: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def useful_tokens(self) -> int:
        """Positions that aren't padding."""
        return int((self.documents != PADDING).sum())

    @property
    def loss_tokens(self) -> int:
        """Positions that the loss counts."""
        return int((self.labels != IGNORE_INDEX).sum())


def empty_batch(sequences: int, seq_length: int, pad_token_id: int) -> Batch:
    """Nothing but padding: [sequences, seq_length]."""
    shape = (sequences, seq_length)
    return Batch(
        ids=np.full(shape, pad_token_id, np.int32),
        labels=np.full(shape, IGNORE_INDEX, np.int32),
        positions=np.zeros(shape, np.int32),
        documents=np.full(shape, PADDING, np.int32),
    )
