"""How replicas share out a group of tensors: end to end, in as many equal slices as there are ranks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """What a rank's slice holds of the tensor of this number: its values from `first` to `last`, in rows."""

    number: int
    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class Owned:
    """A rank's piece of a tensor: from `first` to `last` of what its tensor rank holds of it."""

    name: str
    first: int
    last: int


def slice_length(sizes: Sequence[int], ranks: int) -> int:
    """Values of a slice; what the last ones lack is filled up with zeros."""
    return math.ceil(sum(sizes) / ranks)


def pieces_of(sizes: Sequence[int], rank: int, ranks: int) -> list[Piece]:
    """A rank's slice, in order.

    Args:
        sizes: values of each tensor.
    """
    length, start, found = slice_length(sizes, ranks), 0, []
    for number, size in enumerate(sizes):
        first, last = max(rank * length - start, 0), min((rank + 1) * length - start, size)
        if first < last:
            found.append(Piece(number, first, last))
        start += size
    return found
