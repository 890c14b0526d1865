"""What task=predict is asked: rows with prompt or messages, and every bad line by its number."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from data_support import format_named, own_format
from tokenizers import Tokenizer
from weights_support import refusal

from dscoder_exp.data.prompt_format import PromptFormat
from dscoder_exp.data.requests import Requests, check_requests, messages_of, read_requests
from dscoder_exp.data.rows import Message
from dscoder_exp.schema.config import PredictConfig
from dscoder_exp.schema.errors import Refused

NOT_GIVEN: Any = {item.name: None for item in fields(PredictConfig)} | {"skip_bad": False, "interactive": False}
# It takes no system message, as Gemma's
NO_SYSTEM = """{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}
{% endif %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"""


@pytest.fixture(scope="session")
def chatml(tokenizer: Tokenizer) -> PromptFormat:
    return format_named("chatml", tokenizer)


def asked(prompt_format: PromptFormat, tokenizer: Tokenizer, *, context: int = 300, **given: Any) -> Requests:
    """What read_requests finds; check_requests refuses the same with the same words."""
    arguments = PredictConfig(**{**NOT_GIVEN, **given}), prompt_format, tokenizer, context
    refused: list[Any] = []
    for function in check_requests, read_requests:
        try:
            found = function(*arguments)
        except Refused as error:
            refused.append(error)
    if refused:
        assert [error.problems for error in refused] == [refused[0].problems] * 2
        raise refused[0]
    return found  # type: ignore[return-value]


def written(path: Path, *rows: Any) -> str:
    lines = (row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows)
    path.write_bytes(b"\n".join(lines) + b"\n")
    return str(path)


def test_each_kind_of_row_gets_the_ids_that_training_would_give_it(
    tmp_path: Path, tokenizer: Tokenizer, chatml: PromptFormat
) -> None:
    rows = [
        {"id": 7, "prompt": "a?"},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a?"}]},
        {"prompt": "a?", "system": "Be brief.", "response": "its own answer is not read"},
        {"prompt": "c?", "history": [["a?", "b"]]},
        {"instruction": "a?", "input": "", "output": "b"},
        {"conversations": [{"from": "human", "value": "a?"}]},
        {"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "its own answer"}]},
    ]
    found = asked(chatml, tokenizer, input=written(tmp_path / "p.jsonl", *rows))
    briefly = chatml.prompt([Message("system", "Be brief."), Message("user", "a?")])
    turns = [Message(role, text) for role, text in [("user", "a?"), ("assistant", "b"), ("user", "c?")]]
    simple = chatml.request("a?")
    expected = [simple, briefly, briefly, chatml.prompt(turns), simple, simple, simple]
    assert [row.ids.tolist() for row in found.rows] == expected
    assert [row.fields for row in found.rows] == rows


def test_a_check_encodes_one_row_of_a_kind_and_long_ones(
    tmp_path: Path, tokenizer: Tokenizer, chatml: PromptFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    monkeypatch.setattr(
        PromptFormat,
        "encode",
        lambda self, texts, encode=PromptFormat.encode: encoded.extend(texts) or encode(self, texts),
    )
    rows = [*({"prompt": f"{number}?"} for number in range(50)), {"prompt": "c?", "history": [["a?", "b"]]}]
    given = PredictConfig(**{**NOT_GIVEN, "input": written(tmp_path / "p.jsonl", *rows, {"prompt": "return " * 36})})
    check_requests(given, chatml, tokenizer, 300)
    assert [len(encoded), "0?" in encoded[0].text, "c?" in encoded[1].text] == [3, True, True]


def test_a_text_has_a_prompt_a_line(tmp_path: Path, tokenizer: Tokenizer, chatml: PromptFormat) -> None:
    (tmp_path / "p.txt").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n b? \xe4\xbd\xa0')
    found = asked(chatml, tokenizer, input=str(tmp_path / "p.txt"))
    assert [row.fields["prompt"] for row in found.rows] == ['{"a": 1}', " b? 你"]


BAD = [
    (b'{"prompt": "a"', ":2:15: not JSON"),
    (["prompt"], ":2: not an object but a list"),
    ({"question": "a"}, ':2: there is no "prompt" and no "messages"'),
    ({"prompt": "  "}, ":2: the prompt is empty"),
    ({"messages": []}, ":2: the prompt is empty"),
    ({"messages": "a"}, ':2: "messages" is not a list but text'),
    ({"prompt": 3}, ':2: "prompt" is not text but a number'),
    ({"prompt": "\ud800"}, ':2: "prompt" holds half a character'),
    ({"messages": [{"role": "assistant", "content": "b"}]}, ":2: the prompt is empty"),
    ({"messages": [{"role": "user"}]}, ':2: message 1 has no "content"'),
    ({"prompt": "a " * 400}, ":2: the prompt's "),
]


@pytest.mark.parametrize(("bad", "told"), BAD, ids=[told for _, told in BAD])
def test_a_bad_line_is_named_or_left_out(
    tmp_path: Path, tokenizer: Tokenizer, chatml: PromptFormat, bad: Any, told: str
) -> None:
    path = written(tmp_path / "p.jsonl", {"prompt": "a"}, bad, {"prompt": "b"})
    message = refusal(lambda: asked(chatml, tokenizer, input=path))
    assert told in message
    assert "(1 of 3 rows are bad)" in message
    assert "predict.skip_bad=true leaves bad rows out" in message
    found = asked(chatml, tokenizer, input=path, skip_bad=True)
    assert [row.fields["prompt"] for row in found.rows] == ["a", "b"]
    assert len(found.faults) == 1


def test_the_first_bad_lines_are_listed_in_the_files_order(
    tmp_path: Path, tokenizer: Tokenizer, chatml: PromptFormat
) -> None:
    path = written(tmp_path / "p.jsonl", {"prompt": "a " * 400}, b"x", *[{"prompt": ""}] * 5, {"prompt": "fine"})
    message = refusal(lambda: asked(chatml, tokenizer, input=path))
    assert [line.split(": ")[0][-2:] for line in message.splitlines() if "p.jsonl" in line] == [":1", ":1", ":3"]
    assert "(7 of 8 rows are bad)" in message


def test_a_role_that_the_template_lacks_is_a_bad_row(tmp_path: Path, tokenizer: Tokenizer) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a?"}]
    path = written(tmp_path / "p.jsonl", {"messages": messages})
    message = refusal(lambda: asked(own_format(NO_SYSTEM, tokenizer), tokenizer, input=path))
    assert "p.jsonl:1: the chat template fails: System role not supported" in message


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("p.jsonl", b"\n \n", "predict.input: no prompts in"),
        ("p.csv", b"a,b\n", "predict.input: neither .jsonl nor .txt"),
        ("p.txt", b"a\n\xff\n", "p.txt:2: not UTF-8"),
        ("missing/p.jsonl", None, "predict.input: cannot be read"),
        ("p.jsonl", b"not JSON\n", "(1 of 1 rows are bad)"),
    ],
)
def test_a_file_without_prompts_is_refused(
    tmp_path: Path, tokenizer: Tokenizer, chatml: PromptFormat, name: str, content: bytes | None, told: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert told in refusal(lambda: asked(chatml, tokenizer, input=str(tmp_path / name)))
    if told.endswith("bad)"):
        assert told in refusal(lambda: asked(chatml, tokenizer, input=str(tmp_path / name), skip_bad=True))


def test_a_prompt_as_long_as_the_context_is_refused(tokenizer: Tokenizer, chatml: PromptFormat) -> None:
    length = len(chatml.request("a?"))
    message = refusal(lambda: asked(chatml, tokenizer, prompt="a?", context=length))
    assert f"predict.prompt: the prompt's {length} tokens leave no room for an answer in the model's context" in message
    assert len(asked(chatml, tokenizer, prompt="a?", context=length + 1).rows) == 1


def test_messages_as_chat_apis_take_them() -> None:
    assert messages_of("a?") == [Message("user", "a?")]
    given = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a?"}]
    assert messages_of(given) == [Message("system", "Be brief."), Message("user", "a?")]
    with pytest.raises(ValueError, match="the prompt is empty"):
        messages_of([])
    with pytest.raises(ValueError, match="there is nothing to answer"):
        messages_of([{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}])
