"""Documents that are longer than they may be: conversations are dropped or cut, texts are cut into several."""

from typing import NamedTuple


class Ids(NamedTuple):
    """One turn as token ids."""

    prompt: list[int]
    answer: list[int]


def total(turns: list[Ids]) -> int:
    """Tokens of the document that the turns make, each with its eos."""
    return sum(len(turn.prompt) + len(turn.answer) + 1 for turn in turns)


def truncated(turns: list[Ids], limit: int) -> list[Ids]:
    """The turns that fit, of the first that doesn't as much of its answer as fits; each answer keeps its eos.

    Returns:
        At most `limit` tokens; no turns where the first prompt leaves no room for an answer.
    """
    kept: list[Ids] = []
    for turn in turns:
        room = limit - total(kept) - len(turn.prompt) - 1
        if room < 1:
            break
        kept.append(Ids(turn.prompt, turn.answer[:room]))
        if len(turn.answer) > room:
            break
    return kept


def parts(ids: list[int], limit: int) -> list[list[int]]:
    """A text's ids cut into documents of at most `limit` tokens, at least 2.

    Each part begins with the last token of the one before, so that every token but the first is a target once.
    """
    return [ids[first : first + limit] for first in range(0, max(1, len(ids) - 1), limit - 1)]
