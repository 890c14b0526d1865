"""Truncating conversations above the limit."""

from hypothesis import given
from hypothesis import strategies as st

from dscoder_exp.data.encode import TurnIds, token_count, truncate

NUMBERS = st.lists(st.integers(0, 9), min_size=1, max_size=6)
TURNS = st.lists(st.builds(TurnIds, NUMBERS, NUMBERS), min_size=1, max_size=4)


@given(TURNS, st.integers(2, 60))
def test_a_truncated_conversation_is_a_prefix_of_itself(turns: list[TurnIds], limit: int) -> None:
    kept = truncate(turns, limit)
    assert token_count(kept) <= limit
    assert [turn.prompt for turn in kept] == [turn.prompt for turn in turns[: len(kept)]]
    assert kept[:-1] == turns[: len(kept)][:-1]
    if kept:
        answer = turns[len(kept) - 1].answer
        assert kept[-1].answer == answer[: len(kept[-1].answer)]
        assert kept[-1].answer
    if len(kept) < len(turns) and (not kept or kept[-1] == turns[len(kept) - 1]):
        assert token_count(kept) + len(turns[len(kept)].prompt) + 2 > limit  # no room for a token of the next answer
    if token_count(turns) <= limit:
        assert kept == turns


def test_an_example() -> None:
    turns = [TurnIds([1, 2], [3]), TurnIds([4], [5, 6, 7])]
    assert truncate(turns, 7) == [TurnIds([1, 2], [3]), TurnIds([4], [5])]
    assert truncate(turns, 6) == turns[:1]
    assert truncate(turns, 3) == []
