"""Limits of a config field beyond its type: declared in the field's metadata, checked before a job starts."""

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
    set_at_launch: bool = False,
) -> dict[str, Any]:
    """Limits as a dataclass field's metadata: `field(metadata=bound(ge=1))`. None passes if the field is nullable.

    Args:
        ge, gt, le, lt: numeric limits (of each element, for a list).
        choices: allowed strings.
        file: suffix of a file whose path is allowed besides `choices`; preflight checks that the file exists.
        set_at_launch: the app sets the value at launch; users can't.
    """
    limits = {"ge": ge, "gt": gt, "le": le, "lt": lt, "choices": choices, "file": file, "set_at_launch": set_at_launch}
    return {KEY: {k: v for k, v in limits.items() if v is not None and v is not False}}


def bounds_of(item: Field) -> dict[str, Any]:
    """The limits that `bound` put into a field's metadata; empty without any."""
    return dict(item.metadata.get(KEY, {}))


UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int | None:
    """Bytes of a size such as `5GB` (5,000,000,000) or `1GiB` (2**30), in any case; None if it is no size above 0."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]i?B)", text.strip(), re.IGNORECASE)
    size = int(float(found[1]) * UNITS[found[2].upper()]) if found else 0
    return size or None
