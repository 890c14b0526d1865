"""Trained tensors end to end: what is summed over ranks, updated and gathered at once (as PyTorch's DDP buckets)."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class FlatShard:
    """Elements [first, last) of a flattened tensor, which one rank owns; of the part that its tensor rank holds."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Bucket:
    """Tensors of one kind, as this tensor rank holds them, shared out over replicas in equal slices.

    Attributes:
        matrices: True for matrices, False for vectors, which are the norms' weights.
        copies: number of tensor ranks that hold the same values.
        partial: number of these ranks whose partial gradients are summed; 1: each rank has the whole gradient.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    matrices: bool
    copies: int
    partial: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Elements of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    def length(self, ranks: int) -> int:
        """Elements of a rank's slice; zeros fill up the last slices."""
        return math.ceil(sum(self.sizes) / ranks)

    def shards(self, rank: int, ranks: int) -> list[FlatShard]:
        """What a rank's slice consists of, in order."""
        length, start, found = self.length(ranks), 0, []
        for name, size in zip(self.names, self.sizes, strict=True):
            first, last = max(rank * length - start, 0), min((rank + 1) * length - start, size)
            if first < last:
                found.append(FlatShard(name, first, last))
            start += size
        return found
