"""Trained tensors end to end: what is summed over ranks, updated and gathered at once (as PyTorch's DDP buckets)."""

import math
from dataclasses import dataclass

from dscoder_exp.parallel.pieces import Piece, pieces_of, slice_length


@dataclass(frozen=True)
class Bucket:
    """Tensors of one kind, as this tensor rank holds them.

    Attributes:
        matrices: whether they are; else vectors, the norms' weights.
        copies: tensor ranks that hold the same.
        partial: of the copies' gradients, how many are to be added up; 1: each has all of it.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    matrices: bool
    copies: int
    partial: int

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(math.prod(shape) for shape in self.shapes)

    def length(self, ranks: int) -> int:
        """Values of each of so many slices."""
        return slice_length(self.sizes, ranks)

    def pieces(self, rank: int, ranks: int) -> list[Piece]:
        """What a rank's slice consists of, in order."""
        return pieces_of(self.sizes, rank, ranks)
