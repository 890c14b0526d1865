"""Limits of a config field beyond its type: declared in the field's metadata, checked before a job starts."""

import math
import re
from collections.abc import Mapping
from dataclasses import Field, fields
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


def broken_limit(number: Any, bounds: Mapping[str, Any]) -> str:
    """What the number must be and isn't, such as "at least 1"; "" if it keeps all limits."""
    if isinstance(number, float) and not math.isfinite(number):
        return "a finite number"
    if "ge" in bounds and number < bounds["ge"]:
        return f"at least {bounds['ge']}"
    if "gt" in bounds and number <= bounds["gt"]:
        return f"above {bounds['gt']}"
    if "le" in bounds and number > bounds["le"]:
        return f"at most {bounds['le']}"
    if "lt" in bounds and number >= bounds["lt"]:
        return f"below {bounds['lt']}"
    return ""


def check_arguments(schema: type, **values: Any) -> None:
    """Check numbers that a Python caller gives against the limits of the config fields of the same names.

    Raises:
        ValueError: one is beyond them; it is named.
    """
    limits = {item.name: bounds_of(item) for item in fields(schema)}
    for name, value in values.items():
        if value is not None and (broken := broken_limit(value, limits[name])):
            raise ValueError(f"{name}: must be {broken}, got {value}")


UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int | None:
    """Bytes of a size such as `5GB` (5,000,000,000) or `1GiB` (2**30), in any case; None if it is no size above 0."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]i?B)", text.strip(), re.IGNORECASE)
    size = int(float(found[1]) * UNITS[found[2].upper()]) if found else 0
    return size or None
