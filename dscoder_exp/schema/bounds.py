"""What a field's value may be, beyond its type: written beside the field, checked before anything starts."""

import re
from dataclasses import Field
from typing import Any

KEY = "bounds"


def bound(
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: tuple[str, ...] | None = None,
    file: str | None = None,
    filled: bool = False,
) -> dict[str, Any]:
    """A dataclass field's limits, as its metadata: `field(metadata=bound(ge=1))`. A nullable field's None passes.

    Args:
        ge, gt, le, lt: numeric limits (a list's limits hold for each element).
        choices: the strings that are allowed.
        file: beside the choices, the path of a file that ends so; whether it exists is for preflight to see.
        filled: the app fills it in at launch; a user can't set it.
    """
    limits = {"ge": ge, "gt": gt, "le": le, "lt": lt, "choices": choices, "file": file, "filled": filled}
    return {KEY: {k: v for k, v in limits.items() if v is not None and v is not False}}


def bounds_of(item: Field) -> dict[str, Any]:
    """The limits that `bound` wrote on a field; empty for a plain one."""
    return dict(item.metadata.get(KEY, {}))


UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def bytes_of_size(text: str) -> int | None:
    """`5GB` is 5,000,000,000 and `1GiB` 2**30, in any case; None where the text is no size above 0."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]i?B)", text.strip(), re.IGNORECASE)
    size = int(float(found[1]) * UNITS[found[2].upper()]) if found else 0
    return size or None
