"""The chunks of rows for the loss hold every row whose label counts, once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dscoder_exp.model.llama import chunks_of
from dscoder_exp.schema.llama import IGNORE_INDEX


@given(st.integers(1, 700), st.floats(0, 1), st.integers(0, 99))
def test_every_counted_row_is_in_one_chunk(length, share, seed):
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(length) < share, rng.integers(0, 50, length), IGNORE_INDEX).astype(np.int32)
    chunks = list(chunks_of(labels))
    assert len({array.shape for chunk in chunks for array in chunk}) <= 1
    taken = [(row, label) for chunk in chunks for row, label, counts in zip(*chunk, strict=True) if counts]
    assert taken == [(row, labels[row]) for row in np.flatnonzero(labels != IGNORE_INDEX)]


def test_without_counted_rows_there_are_no_chunks():
    assert list(chunks_of(np.full((2, 8), IGNORE_INDEX, np.int32))) == []


@pytest.mark.parametrize(("length", "rows"), [(64, 128), (200, 200), (512, 256), (2048, 512), (65536, 1024)])
def test_chunk_size(length, rows):
    assert {array.shape for array in next(chunks_of(np.zeros(length, np.int32)))} == {(rows,)}
