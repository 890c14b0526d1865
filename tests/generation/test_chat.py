"""A conversation: only what a turn adds is prefilled; an interrupted answer is part of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from generation_support import CountingEngine
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from dscoder_exp.generation.answers import Answering, Ending
from dscoder_exp.generation.batching import Batch
from dscoder_exp.generation.chat import Chat
from dscoder_exp.generation.sampling import Sampling

CHARACTERS = [chr(32 + number) for number in range(64)]


def tokenizer() -> Tokenizer:
    """A token for each of 64 characters, so that an answer's text has the tokens that it was generated with."""
    found = Tokenizer(models.WordLevel({char: number for number, char in enumerate(CHARACTERS)}, unk_token=" "))
    found.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")  # type: ignore[assignment]
    found.decoder = decoders.Fuse()  # type: ignore[assignment]
    return found


class Lines:
    """A prompt format: each message's text, and a line's end, here `/`."""

    def __init__(self, found: Tokenizer) -> None:
        self._tokenizer = found

    def prompt(self, messages: list[Any]) -> list[int]:
        return self._tokenizer.encode("".join(f"{message.content}/" for message in messages)).ids


def chat_with(engine: CountingEngine, context: int = 500) -> Chat:
    found = tokenizer()
    answering = Answering(found, Ending([]), context, max_new_tokens=6)
    batch = Batch(engine, Sampling(), keep_answers=True)  # type: ignore[arg-type]
    return Chat(batch, Lines(found), answering)  # type: ignore[arg-type]


def test_a_turn_prefills_only_what_it_adds() -> None:
    engine = CountingEngine()
    chat, texts = chat_with(engine), []
    first = chat.ask("HELLO", texts.append)
    second = chat.ask("AGAIN", texts.append)
    assert engine.prefilled == [6, 1 + 1 + 6], "the answer's last token, which was never run, its end, the question"
    assert [message.role for message in chat.messages] == ["user", "assistant"] * 2
    assert "".join(texts) == first.text + second.text
    again = chat_with(CountingEngine())
    again.messages = chat.messages[:2]
    assert again.ask("AGAIN", lambda text: None).tokens == second.tokens, "as if all of it was new"


def test_an_answer_that_is_stopped_stays_as_far_as_it_came() -> None:
    engine = CountingEngine()
    chat = chat_with(engine)
    asked = iter([False, True])
    answer = chat.ask("HELLO", lambda text: None, lambda: next(asked))
    assert (len(answer.tokens), answer.finish_reason) == (3, "interrupted")
    assert chat.messages[-1].content == answer.text
    chat.ask("GO ON", lambda text: None)
    assert engine.prefilled == [6, 1 + 1 + 6]


def test_a_full_context_is_told_and_changes_nothing() -> None:
    chat = chat_with(CountingEngine(), context=20)
    chat.ask("HELLO", lambda text: None)
    with pytest.raises(ValueError, match="the conversation's 21 tokens fill the model's context; /reset begins a new"):
        chat.ask("AND NOW", lambda text: None)
    assert len(chat.messages) == 2


def test_it_is_saved_as_a_row_and_never_over_a_file(tmp_path: Path) -> None:
    chat = chat_with(CountingEngine())
    answer = chat.ask("HELLO", lambda text: None)
    chat.save(tmp_path / "c.jsonl")
    assert json.loads((tmp_path / "c.jsonl").read_text()) == {
        "messages": [{"role": "user", "content": "HELLO"}, {"role": "assistant", "content": answer.text}]
    }
    with pytest.raises(FileExistsError):
        chat.save(tmp_path / "c.jsonl")
    assert [file.name for file in tmp_path.iterdir()] == ["c.jsonl"]
