"""Suggestions for misspelt keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dscoder_exp.schema.suggest import all_keys, did_you_mean, nearest, nearest_keys, unknown_key

KEYS = all_keys()


def misspellings(word: str) -> list[str]:
    """All misspellings with one letter left out, doubled, or swapped with the next."""
    places = range(len(word))
    left_out = [word[:at] + word[at + 1 :] for at in places]
    doubled = [word[:at] + word[at] + word[at:] for at in places]
    swapped = [word[:at] + word[at + 1] + word[at] + word[at + 2 :] for at in places[:-1]]
    return [name for name in (*left_out, *doubled, *swapped) if name and name != word]


@pytest.mark.parametrize("key", [key for key in KEYS if len(key.rpartition(".")[2]) >= 5])
def test_a_misspelt_key_is_found(key: str) -> None:
    group, dot, name = key.rpartition(".")
    for misspelling in misspellings(name):
        wrong = f"{group}{dot}{misspelling}"
        if wrong not in KEYS:
            assert key in nearest_keys(wrong), wrong


@pytest.mark.parametrize(
    ("wrong", "suggested"),
    [
        ("max_steps", ["train.max_steps"]),  # the group left out
        ("train.lr", ["optim.lr"]),  # the wrong group
        ("learning.warmup_ratio", ["optim.warmup_ratio"]),
        ("optim.warmup", ["optim.warmup_ratio", "optim.warmup_steps"]),
        ("train.prompt", ["train.prompts", "predict.prompt", "evaluate.prompt"]),
        ("predict.top_", ["predict.top_k", "predict.top_p"]),
        ("model.hidden", ["model.hidden_size"]),
        ("xyzzy", []),
    ],
)
def test_the_nearest_keys_are_suggested(wrong: str, suggested: list[str]) -> None:
    assert nearest_keys(wrong) == suggested


@given(key=st.text())
def test_suggested_keys_exist(key: str) -> None:
    assert set(nearest_keys(key, extra=["experiment"])) <= {*KEYS, "experiment"}
    assert unknown_key(key).where == key
    assert unknown_key(key).remedy


@given(name=st.text(), valid=st.lists(st.text(), max_size=8))
def test_nearest_names_come_from_the_valid_ones(name: str, valid: list[str]) -> None:
    found = nearest(name, valid)
    assert len(found) <= 3
    assert set(found) <= set(valid)
    assert not valid or name not in valid or found[0] == name


def test_suggestions_are_joined_into_a_remedy() -> None:
    assert did_you_mean([]) == ""
    assert did_you_mean(["a.b", "c"]) == "did you mean `a.b` or `c`?"
