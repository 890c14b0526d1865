"""Truncating conversations that exceed the limit."""

from hypothesis import given
from hypothesis import strategies as st

from dscoder_exp.data.encode import Encoded, truncate

LENGTHS = st.lists(st.tuples(st.integers(1, 6), st.integers(2, 6)), min_size=1, max_size=4)


def document_of(lengths: list[tuple[int, int]], trailing: int) -> Encoded:
    """Of turns with so many tokens of prompt and of answer, and some tokens after the last."""
    answers, end = [], 0
    for prompt, answer in lengths:
        answers.append((end + prompt, end + prompt + answer))
        end += prompt + answer
    return Encoded(list(range(100, 100 + end + trailing)), answers)


@given(LENGTHS, st.integers(0, 2), st.integers(2, 60))
def test_a_truncated_conversation_is_a_prefix_of_the_original(
    lengths: list[tuple[int, int]], trailing: int, limit: int
) -> None:
    document = document_of(lengths, trailing)
    kept = truncate(document, limit)
    assert len(kept.ids) <= limit
    if not kept.ids:
        assert document.answers[0][0] + 2 > limit  # no room for a token of the first answer and its end
        return
    assert kept.ids[:-1] == document.ids[: len(kept.ids) - 1]
    assert kept.answers[:-1] == document.answers[: len(kept.answers) - 1]
    first, end = kept.answers[-1]
    assert end == len(kept.ids)
    assert kept.ids[-1] == document.ids[document.answers[len(kept.answers) - 1][1] - 1]  # that ends an answer
    assert end - first >= 2
    if len(kept.answers) < len(document.answers) and kept.answers[-1] == document.answers[len(kept.answers) - 1]:
        assert document.answers[len(kept.answers)][0] + 2 > limit


def test_an_example() -> None:
    document = Encoded([1, 2, 3, 9, 4, 5, 6, 7, 9, 8], [(2, 4), (5, 9)])
    assert truncate(document, 9) == Encoded([1, 2, 3, 9, 4, 5, 6, 7, 9], [(2, 4), (5, 9)])
    assert truncate(document, 7) == Encoded([1, 2, 3, 9, 4, 5, 9], [(2, 4), (5, 7)])
    assert truncate(document, 6) == Encoded([1, 2, 3, 9], [(2, 4)])
    assert truncate(document, 3) == Encoded([], [])
