"""Documents that don't fit."""

from hypothesis import given
from hypothesis import strategies as st

from dscoder_exp.data.encode import Ids, total, truncated

NUMBERS = st.lists(st.integers(0, 9), min_size=1, max_size=6)
TURNS = st.lists(st.builds(Ids, NUMBERS, NUMBERS), min_size=1, max_size=4)


@given(TURNS, st.integers(2, 60))
def test_a_conversation_is_cut_to_a_beginning_of_itself(turns: list[Ids], limit: int) -> None:
    kept = truncated(turns, limit)
    assert total(kept) <= limit
    assert [turn.prompt for turn in kept] == [turn.prompt for turn in turns[: len(kept)]]
    assert kept[:-1] == turns[: len(kept)][:-1]
    if kept:
        answer = turns[len(kept) - 1].answer
        assert kept[-1].answer == answer[: len(kept[-1].answer)]
        assert kept[-1].answer
    if len(kept) < len(turns) and (not kept or kept[-1] == turns[len(kept) - 1]):
        assert total(kept) + len(turns[len(kept)].prompt) + 2 > limit  # no room for a token of the next answer
    if total(turns) <= limit:
        assert kept == turns


def test_an_example() -> None:
    turns = [Ids([1, 2], [3]), Ids([4], [5, 6, 7])]
    assert truncated(turns, 7) == [Ids([1, 2], [3]), Ids([4], [5])]
    assert truncated(turns, 6) == turns[:1]
    assert truncated(turns, 3) == []
