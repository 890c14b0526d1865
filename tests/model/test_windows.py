"""Attention in windows equals attention over the whole sequence, forward and backward."""

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dscoder_exp.model.kernels import cpu, windows

HEADS, KEY_HEADS, SIZE = 4, 2, 8


def packed(length: int, *rows: list[int]) -> np.ndarray:
    """Documents of these lengths in each row, padding after them."""
    documents = np.full((len(rows), length), -1, np.int32)
    for row, lengths in zip(documents, rows, strict=True):
        row[: sum(lengths)] = np.repeat(np.arange(len(lengths)), lengths)
    return documents


def whole_mask(documents: np.ndarray) -> np.ndarray:
    length = documents.shape[1]
    seen = (documents[:, :, None] == documents[:, None]) & np.tri(length, dtype=bool)
    return np.where(seen, np.float32(0), np.float32(cpu.MASKED))[:, None]


@pytest.mark.parametrize(
    ("length", "rows", "tile"),
    [
        (1024, [[256] * 4], 64),
        (1024, [[257] * 3], 128),
        (640, [[257] * 2], 640),  # windows would be as wide
        (8192, [[100] * 80, [1000]], 256),
        (4096, [[]], 64),  # padding needs no window
        (300, [[300]], 300),
    ],
)
def test_a_tile_follows_the_longest_document(length, rows, tile):
    documents = packed(length, *rows)
    assert windows.tile_length(documents) == tile
    width = 5 * tile if tile < length else length
    count = -(-length // tile)
    assert windows.window_mask(documents, -1.0).shape == (len(rows) * count, 1, tile, width)


def test_a_document_with_holes_spans_them():
    """As an attention_mask of load(…).logits may give."""
    documents = np.full((1, 1024), -1, np.int32)
    documents[0, [5, 900]] = 0
    assert windows.longest_document(documents) == 896
    assert windows.tile_length(documents) == 1024


@given(st.lists(st.integers(1, 120), min_size=1, max_size=12), st.integers(0, 50))
def test_the_windows_masks_hold_every_pair_once(lengths, padding):
    length = max(400, sum(lengths) + padding)
    documents = packed(length, lengths)
    mask = windows.window_mask(documents, -1.0)
    tile, width = mask.shape[2:]
    assert width < length
    whole = np.full((length, length), -1.0, np.float32)
    for number, window in enumerate(mask[:, 0]):
        for row in range(min(tile, length - number * tile)):
            query, first = number * tile + row, (number + 1) * tile - width
            keys = np.arange(max(first, 0), min(first + width, length))
            whole[query, keys] = window[row, keys - first]
            assert (window[row, : max(-first, 0)] == -1).all()
    real = documents[0] >= 0
    assert np.array_equal(whole[real] == 0, whole_mask(documents)[0, 0][real] == 0)


@pytest.mark.parametrize(
    ("length", "rows"),
    [(1000, [[200] * 5, [150] * 6]), (700, [[60] * 11, [130] * 5]), (512, [[90] * 5, [64] * 8])],
    ids=["last tile filled up", "rows of unlike lengths", "whole tiles"],
)
def test_windows_equal_the_whole_sequence(length, rows):
    documents = packed(length, *rows)
    rng = np.random.default_rng(0)
    shapes = [(len(rows), length, heads, SIZE) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    q, k, v = (ms.Tensor(rng.standard_normal(shape).astype(np.float32)) for shape in shapes)
    counted = (documents >= 0).reshape(-1, 1)
    dout = ms.Tensor((rng.standard_normal((counted.size, HEADS * SIZE)) * counted).astype(np.float32))
    results = []
    for mask in (cpu.attention_mask(documents, HEADS), (ms.Tensor(np.repeat(whole_mask(documents), HEADS, 1)),)):
        out, kept = cpu.attention(q, k, v, mask)
        gradients = cpu.attention_backward(dout, out, q, k, v, mask, kept)
        results.append([out.asnumpy() * counted, *(gradient.asnumpy() for gradient in gradients)])
    # In fp32 a sum is off by its number of terms times 2^-24: over a document's queries of the heads that share a key
    # (the keys' gradients), over its keys (softmax), and over a head's numbers (scores, dp, and what is taken off it).
    longest = max(max(lengths) for lengths in rows)
    rounding = (HEADS // KEY_HEADS * longest + longest + 3 * SIZE) * 2.0**-24
    for mine, expected in zip(*results, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=0, atol=rounding * np.abs(expected).max())
