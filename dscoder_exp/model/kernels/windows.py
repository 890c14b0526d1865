"""Attention over packed documents whose time and memory follow the longest document, not the sequence's square.

A sequence is cut into tiles of S positions. A document of at most 4 S tokens that ends in a tile began in it or in one
of the 4 before, so a tile's queries need the keys of 5 tiles alone, their window. Tiles then are attention's batch:
queries [B * n, S, h, d], keys [B * n, 5 S, k, d]. S is a power of two, so that few shapes are compiled.
"""

import numpy as np
from mindspore import ops
from numpy.typing import NDArray

_slice = ops.Slice()
BACK = 4  # tiles before a query's own that its window holds
SMALLEST_TILE = 64  # smaller products don't use the matrix units well


def longest_document(documents: NDArray[np.int32]) -> int:
    """Positions that the longest document spans; -1 is padding. documents [B, T]."""
    longest = 0
    for row in documents:
        numbers, first = np.unique(row, return_index=True)
        last = len(row) - np.unique(row[::-1], return_index=True)[1]
        longest = max(longest, *(last - first)[numbers >= 0], 0)
    return longest


def tile_length(documents: NDArray[np.int32]) -> int:
    """S for a batch [B, T]; T where windows would be as wide as the sequence."""
    length, longest = documents.shape[1], longest_document(documents)
    tile = SMALLEST_TILE
    while tile * BACK < longest:
        tile *= 2
    return tile if tile * (BACK + 1) < length else length


def window_mask(documents: NDArray[np.int32], masked: float) -> NDArray[np.float32]:
    """fp32 [B * n, 1, S, 5 S] (or [B, 1, T, T]): 0 where the key lies in the query's document and not after it."""
    batch, length = documents.shape
    tile = tile_length(documents)
    count, back = -(-length // tile), BACK if tile < length else 0
    queries = np.pad(documents, ((0, 0), (0, count * tile - length)), constant_values=-1)
    keys = np.pad(queries, ((0, 0), (back * tile, 0)), constant_values=-2)
    width = (back + 1) * tile
    windows = np.lib.stride_tricks.sliding_window_view(keys, width, 1)[:, ::tile]
    seen = queries.reshape(batch, count, tile, 1) == windows[:, :, None]
    seen &= np.arange(width) <= np.arange(back * tile, width)[:, None]
    return np.where(seen, np.float32(0), np.float32(masked)).reshape(batch * count, 1, tile, width)


def tiles(x, mask):
    """x [B, T, n, d] -> [B * tiles, S, n, d], the last tile filled up with zeros."""
    batch, length, heads, size = x.shape
    rows, tile = mask.shape[0], mask.shape[2]
    filler = rows // batch * tile - length
    if filler > 0:
        x = ops.concat((x, ops.zeros((batch, filler, heads, size), x.dtype)), 1)
    return x.reshape(rows, tile, heads, size)


def untile(x, batch, length):
    """The inverse of `tiles`."""
    rows, tile, heads, size = x.shape
    whole = x.reshape(batch, rows // batch * tile, heads, size)
    return whole if whole.shape[1] == length else _from(whole, 0, length)


def _from(x, first, count):
    """x[:, first : first + count]; on the CPU an index is far slower."""
    begin, size = [0] * len(x.shape), list(x.shape)
    begin[1], size[1] = first, count
    return _slice(x, tuple(begin), tuple(size))


def windows(x, mask):
    """x [B, T, n, d] -> each tile with those before it, [B * tiles, W, n, d]; before the first there are zeros."""
    batch, heads, size = x.shape[0], x.shape[2], x.shape[3]
    tile, back = mask.shape[2], mask.shape[3] // mask.shape[2] - 1
    x = tiles(x, mask)
    if back == 0:
        return x
    count = x.shape[0] // batch
    x = x.reshape(batch, count, tile, heads, size)
    x = ops.concat((ops.zeros((batch, back, tile, heads, size), x.dtype), x), 1)
    parts = [_from(x, i, count) for i in range(back + 1)]
    return ops.concat(parts, 2).reshape(batch * count, (back + 1) * tile, heads, size)


def unwindow(dx, mask, batch, length):
    """The gradient of `windows`: each position's sum over the windows that hold it. dx [B * tiles, W, n, d]."""
    rows, heads, size = dx.shape[0], dx.shape[2], dx.shape[3]
    tile, back = mask.shape[2], mask.shape[3] // mask.shape[2] - 1
    if back == 0:
        return untile(dx, batch, length)
    count = rows // batch
    parts = ops.Split(2, back + 1)(dx.reshape(batch, count, back + 1, tile, heads * size))
    total = parts[back]
    for i in range(back):
        later = back - i  # part i of a window is the tile that lies so many before its own
        missing = ops.zeros((batch, later, 1, tile, heads * size), dx.dtype)
        total = total + ops.concat((_from(parts[i], later, count - later), missing), 1)
    return untile(total.reshape(rows, tile, heads, size), batch, length)
