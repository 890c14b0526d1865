"""Answers as text: whole characters, no special tokens, cut before stop strings."""

from typing import Any

import pytest
from generation_support import Script
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from dscoder_exp.data.special_tokens import SpecialTokens
from dscoder_exp.generation.answers import Answer, Answering, Ending, TextStream, speed_of
from dscoder_exp.generation.batching import Batch
from dscoder_exp.generation.sampling import Sampling

END = 999


def bytes_tokenizer() -> Tokenizer:
    """One token for each byte, and two control tokens, of which the tokenizer calls one an ordinary token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer.add_special_tokens(["<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<|EOT|>", special=False)])
    return tokenizer


TOKENIZER = bytes_tokenizer()


def answered(ids: list[int], length: int = 100, **ending: Any) -> tuple[Answer, list[str]]:
    texts: list[str] = []
    answering = Answering(TOKENIZER, Ending([END], **ending), context=200, max_new_tokens=length)
    answer = answering.answer([1, 2], on_text=texts.append)
    for _ in Batch(Script(ids, 1000), Sampling()).run([answer]):  # type: ignore[arg-type]
        pass
    return answer, texts


def test_text_is_streamed_in_whole_characters() -> None:
    ids = TOKENIZER.encode("né 你!").ids
    answer, texts = answered([*ids, END])
    assert texts == ["n", "é", " ", "你", "!"]
    assert (answer.text, len(answer.tokens), answer.finish_reason) == ("né 你!", len(ids) + 1, "stop")


def test_half_a_character_at_the_end_is_left_out() -> None:
    ids = TOKENIZER.encode("a你").ids
    answer, texts = answered(ids, length=3)
    assert (answer.text, texts, answer.finish_reason) == ("a", ["a"], "length")


def test_special_tokens_are_no_text() -> None:
    """Neither those that the tokenizer calls special, nor those that it calls ordinary."""
    special = SpecialTokens(TOKENIZER)
    hidden = [TOKENIZER.token_to_id(text) for text in special.texts]
    assert len(hidden) == 2
    ids = [*TOKENIZER.encode("ab").ids, *hidden, *TOKENIZER.encode("c").ids, END]
    assert answered(ids, hidden_ids=hidden)[0].text == "abc"


def test_a_stop_string_ends_an_answer_across_tokens_and_is_not_shown() -> None:
    answer, texts = answered(TOKENIZER.encode("x = 1\n\n\ndef f").ids, strings=["\n\n\n", "class"])
    assert (answer.text, answer.finish_reason) == ("x = 1", "stop")
    assert "".join(texts) == "x = 1"
    assert len(answer.tokens) == len("x = 1\n\n\n")


def test_what_only_begins_like_a_stop_string_is_shown_later() -> None:
    answer, texts = answered([*TOKENIZER.encode("a\n\nb<|").ids, END], strings=["\n\n\n", "<|end"])
    assert texts == ["a", "\n\nb", "<|"]
    assert answer.text == "a\n\nb<|"


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_stop_strings_cut_where_the_whole_text_would_be_cut(text: str, strings: list[str]) -> None:
    stream = TextStream(TOKENIZER, Ending([], strings))
    shown = ""
    for token in TOKENIZER.encode(text).ids:
        shown += stream.push(token)
        assert not any(stop in shown for stop in strings)
        if stream.stopped:
            break
    shown += stream.end()
    ends = [text.find(stop) + len(stop) for stop in strings if stop in text]
    if ends:  # the first that is complete ends it; of several, the one that begins first is cut away
        complete = text[: min(ends)]
        assert shown == complete[: min(complete.find(stop) for stop in strings if stop in complete)]
    else:
        assert shown == text


def test_an_answer_ends_with_the_context() -> None:
    answering = Answering(TOKENIZER, Ending([END]), context=6, max_new_tokens=50)
    assert answering.answer([1, 2]).max_new_tokens == 4


def test_an_interrupted_answer_shows_what_was_held_back() -> None:
    texts: list[str] = []
    answering = Answering(TOKENIZER, Ending([END], ["bcd"]), context=50, max_new_tokens=50)
    answer = answering.answer([1], on_text=texts.append)
    answer.begin()
    for token in TOKENIZER.encode("abc").ids:
        answer.take(token)
    answer.stop()
    assert (answer.text, texts, answer.finish_reason) == ("abc", ["a", "bc"], "interrupted")


def test_the_speed_of_several_answers() -> None:
    answers = [answered([*TOKENIZER.encode("ab").ids, END])[0] for _ in range(3)]
    for answer in answers:
        answer.first_token_s = 0.5
    speed = speed_of(answers, 4.0)
    assert (speed.answers, speed.prompt_tokens, speed.tokens) == (3, 6, 9)
    assert (speed.prefill_tokens_per_s, speed.tokens_per_s) == pytest.approx((4.0, 2.25))
    compiled = speed_of(answers, 8.5, compile_s=4.5, prefill_compile_s=0.3)
    assert (compiled.prefill_tokens_per_s, compiled.tokens_per_s) == pytest.approx((5.0, 2.25))
    assert compiled.first_token_s == 0.5
