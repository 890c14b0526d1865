"""Buckets of trained tensors, which are reduced, updated and gathered together (as in PyTorch's DDP)."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class FlatShard:
    """Elements [first, last) of a tensor's flattened part on one tensor rank, owned by one replica."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Bucket:
    """Tensors of one kind, flattened one after another; each replica owns an equal slice (ZeRO-1).

    Attributes:
        names: names of the tensors.
        shapes: shape of this tensor rank's part of each.
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
        """Number of elements of each tensor's part."""
        return tuple(math.prod(shape) for shape in self.shapes)

    def length(self, ranks: int) -> int:
        """Number of elements of each of `ranks` equal slices; the last ones are padded with zeros."""
        return math.ceil(sum(self.sizes) / ranks)

    def shards(self, rank: int, ranks: int) -> list[FlatShard]:
        """The shards that the slice of replica `rank` of `ranks` consists of, in order, without the padding."""
        length, start, shards = self.length(ranks), 0, []
        for name, size in zip(self.names, self.sizes, strict=True):
            first, last = max(rank * length - start, 0), min((rank + 1) * length - start, size)
            if first < last:
                shards.append(FlatShard(name, first, last))
            start += size
        return shards
