"""Sizes of files as transformers spells them: 500MB, 5GB."""

import re

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def bytes_of_size(text: str) -> int | None:
    """`5GB` is 5,000,000,000 and `1GiB` 2**30, in any case; None where the text is no size above 0."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]i?B)", text.strip(), re.IGNORECASE)
    size = int(float(found[1]) * UNITS[found[2].upper()]) if found else 0
    return size or None
