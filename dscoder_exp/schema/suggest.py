"""The nearest valid name to a wrong one, over the full dotted keys of the schema."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import get_args, get_type_hints

from dscoder_exp.schema.config import Config
from dscoder_exp.schema.errors import Problem

CLOSE = 0.6  # difflib's ratio from which a name counts as meant
TIED = 0.02  # a ratio this much lower is as good


def dataclass_in(hint: object) -> type | None:
    """The dataclass that a field's type is, or that its Optional holds; None for a plain field."""
    for option in (hint, *get_args(hint)):
        if isinstance(option, type) and is_dataclass(option):
            return option
    return None


@cache
def all_keys() -> tuple[str, ...]:
    """Every dotted key of the configuration, groups included."""

    def walk(schema: type, prefix: str) -> Iterator[str]:
        hints = get_type_hints(schema)
        for item in fields(schema):
            yield prefix + item.name
            if (inner := dataclass_in(hints[item.name])) is not None:
                yield from walk(inner, f"{prefix}{item.name}.")

    return tuple(walk(Config, ""))


def nearest(name: str, valid: Iterable[str]) -> list[str]:
    """At most three names that `name` may have meant, best first; empty when none is close."""
    return difflib.get_close_matches(name, list(valid), n=3, cutoff=CLOSE)


def nearest_keys(key: str, extra: Sequence[str] = ()) -> list[str]:
    """The keys that a wrong dotted key may have meant, at most three that are about as close, best first.

    The same last name in another group is close; so is a close spelling, of the whole or of the last name.
    """
    last = key.rpartition(".")[2]

    def closeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, candidate, key).ratio()
        # A different group is worth a little less than the right one: optim.warmup beats train.warmup for optim.warmpu.
        tail = difflib.SequenceMatcher(None, candidate.rpartition(".")[2], last).ratio() - 0.05
        return max(whole, tail)

    scores = {candidate: closeness(candidate) for candidate in (*all_keys(), *extra)}
    best = max(scores.values())
    close = [candidate for candidate, score in scores.items() if score >= max(CLOSE, best - TIED)]
    return sorted(close, key=lambda candidate: -scores[candidate])[:3]


def did_you_mean(names: Sequence[str]) -> str:
    """A remedy in words; empty without names."""
    return f"did you mean {' or '.join(f'`{name}`' for name in names)}?" if names else ""


def unknown_key(key: str, extra: Sequence[str] = ()) -> Problem:
    """The problem that a key outside the schema is. `extra`: further valid names, such as groups."""
    found = did_you_mean(nearest_keys(key, extra))
    return Problem(key, "unknown key", found or "python -m dscoder_exp --cfg job lists every key")
