"""Suggestions for a misspelt name, from all dotted keys of the schema."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import get_args, get_type_hints

from dscoder_exp.schema.config import Config
from dscoder_exp.schema.errors import Problem

MIN_SIMILARITY = 0.6  # least difflib ratio of a suggested name
TIE_MARGIN = 0.02  # a ratio at most this far below the best counts as equally close


def dataclass_in(hint: object) -> type | None:
    """The dataclass in a field's type `X` or `Optional[X]`; None if X is no dataclass."""
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
    """At most three valid names that are close to `name`, best first."""
    return difflib.get_close_matches(name, list(valid), n=3, cutoff=MIN_SIMILARITY)


def nearest_keys(key: str, extra: Sequence[str] = ()) -> list[str]:
    """At most three keys that are about equally close to a wrong dotted key, best first.

    Closeness is that of the whole key or, slightly less, of its last name alone, in whatever group.
    """
    # SequenceMatcher prepares its second word, so each of the two is prepared once, for all candidates.
    whole, tail = (difflib.SequenceMatcher(None, "", word) for word in (key, key.rpartition(".")[2]))

    def closeness(candidate: str) -> float:
        # A match in another group counts a little less: for optim.warmpu, optim.warmup beats train.warmup.
        return max(_ratio(whole, candidate), _ratio(tail, candidate.rpartition(".")[2]) - 0.05)

    scores = {candidate: closeness(candidate) for candidate in (*all_keys(), *extra)}
    best = max(scores.values())
    close = [candidate for candidate, score in scores.items() if score >= max(MIN_SIMILARITY, best - TIE_MARGIN)]
    return sorted(close, key=lambda candidate: -scores[candidate])[:3]


def _ratio(matcher: difflib.SequenceMatcher[str], word: str) -> float:
    """The difflib ratio of the word; 0 where its letters alone show that it is too low for a suggestion."""
    matcher.set_seq1(word)
    if matcher.real_quick_ratio() < MIN_SIMILARITY or matcher.quick_ratio() < MIN_SIMILARITY:
        return 0.0
    return matcher.ratio()


def did_you_mean(names: Sequence[str]) -> str:
    """The remedy that suggests `names`; empty without names."""
    return f"did you mean {' or '.join(f'`{name}`' for name in names)}?" if names else ""


def unknown_key(key: str, extra: Sequence[str] = ()) -> Problem:
    """The Problem for a key outside the schema. `extra`: further valid names, such as groups."""
    found = did_you_mean(nearest_keys(key, extra))
    return Problem(key, "unknown key", found or "python -m dscoder_exp --cfg job lists every key")
