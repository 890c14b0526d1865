"""Sizes in bytes from texts such as 5GB."""

import pytest

from dscoder_exp.schema.bounds import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("1.5 gb", 1_500_000_000), ("500MB", 5 * 10**8), ("2GiB", 2**31), ("10KB", 10_000)],
)
def test_sizes_as_transformers_spells_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5", "GB", "0GB", "-1GB", "5 TB", "5GB or so", "1e3MB"])
def test_other_texts_are_not_sizes(text: str) -> None:
    assert parse_size(text) is None
