"""Keys of rows that go to the chat template: honoured where it writes them, counted where it doesn't."""

import json
from pathlib import Path
from typing import Any

import pytest
from data_support import SCRATCH, config, format_named, own_format, text_setup
from tokenizers import Tokenizer

from dscoder_exp.data.chat_template import TemplateFailed
from dscoder_exp.data.encode import UnfitRows, encode_rows
from dscoder_exp.data.ignored import ignored_by
from dscoder_exp.data.prepare import prepare
from dscoder_exp.data.report import DataReport
from dscoder_exp.data.rows import Conversation, Message, exchange
from dscoder_exp.data.tool_calls import rendered
from dscoder_exp.schema.errors import Refused

ARGUMENTS = {"a": 1, "b": "é"}
TOOLS = json.dumps([{"type": "function", "function": {"name": "add"}}])
# How templates write calls: as JSON of an object (Qwen's and Hermes's), as JSON text that they are given
# (DeepSeek-V3's), whatever they are given.
BEGIN = "{% for t in tools or [] %}<tool>{{ t.function.name }}{% endfor %}{% for m in messages %}<{{ m.role }}"
BEGIN += "{% if m.name %} {{ m.name }}{% endif %}>{{ m.content or '' }}{% for c in m.tool_calls or [] %}<call>"
END = "{% endfor %}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
WRITES = {
    "objects": BEGIN + "{{ c.function.name }}{{ c.function.arguments | tojson }}" + END,
    "text": BEGIN + "{{ c.function.name + c.function.arguments }}" + END,
    "anything": BEGIN + "{{ c.function.name }}{{ c.function.arguments }}" + END,
}
STRICT = """{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}
{% if add_generation_prompt %}assistant: {% endif %}"""


def calling(arguments: Any, content: str = "") -> Conversation:
    calls = [{"type": "function", "function": {"name": "add", "arguments": arguments}}]
    extra = json.dumps({"tool_calls": calls} | ({} if content else {"content": None}))
    return Conversation(
        (
            Message("user", "1 + 1?", extra='{"name": "Ann"}'),
            Message("assistant", content, extra=extra),
            Message("tool", "2"),
            Message("assistant", "Two."),
        ),
        TOOLS,
    )


@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize("arguments", [ARGUMENTS, json.dumps(ARGUMENTS, ensure_ascii=False)])
def test_calls_are_written_in_the_form_that_the_template_takes(kind: str, arguments: Any, tokenizer: Tokenizer) -> None:
    prompt_format = own_format(WRITES[kind], tokenizer)
    found = rendered(calling(arguments), prompt_format)
    assert found.text == (
        '<tool>add<user Ann>1 + 1?<end><assistant><call>add{"a": 1, "b": "é"}<end><tool>2<end><assistant>Two.<end>'
    )
    assert next(found.text[first:end] for first, end in found.answers).startswith("<call>add")
    assert ignored_by(prompt_format, [calling(arguments)]) == {}


def test_a_template_that_takes_no_content_of_null(tokenizer: Tokenizer) -> None:
    source = WRITES["objects"].replace("m.content or ''", "'' + m.content")
    assert rendered(calling(ARGUMENTS), own_format(source, tokenizer)).text.count('<call>add{"a": 1') == 1


def test_calls_that_the_template_leaves_out(tokenizer: Tokenizer) -> None:
    ours = format_named("deepseek_coder", tokenizer)
    with pytest.raises(TemplateFailed, match="message 2 is nothing but tool_calls, which the template doesn't write"):
        rendered(calling(ARGUMENTS), ours)
    lists_tools = own_format(WRITES["objects"].replace("m.tool_calls or []", "[]"), tokenizer)  # as Granite 3.0's
    with pytest.raises(TemplateFailed, match="message 2 is nothing but tool_calls, which the template doesn't write"):
        rendered(calling(ARGUMENTS), lists_tools)
    rows = [calling(ARGUMENTS, "I add."), exchange("a", "", "b"), calling(ARGUMENTS, "I add.")]
    assert ignored_by(ours, rows) == {
        "tools": 2,
        "name of user messages": 2,
        "tool_calls of assistant messages": 2,
        "tool messages": 2,
    }


def test_later_system_messages_that_the_template_leaves_out(tokenizer: Tokenizer) -> None:
    system = Message("system", "Be brief.")
    rows = [Conversation((system, *exchange("a", "", "b").messages, system, *exchange("c", "", "d").messages))]
    assert ignored_by(format_named("deepseek_coder", tokenizer), rows) == {"system messages after the first message": 1}
    assert ignored_by(format_named("chatml", tokenizer), rows) == {}


def report_of(
    tmp_path: Path, tokenizer: Tokenizer, rows: list[Any], source: str | None = None, **changes: Any
) -> DataReport:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    changes = {"template": None, "eval_fraction": 0.0} | changes
    text = text_setup(tokenizer, source=source)
    return prepare(config(path, **changes), text, seq_length=256, cache_dir=tmp_path / "cache").report


PAIR = {"prompt": "a", "response": "b"}


def test_weights(tmp_path: Path, tokenizer: Tokenizer) -> None:
    asked, said = {"role": "user", "content": "q"}, {"role": "assistant", "content": "bad", "weight": 0}
    rows = [{"messages": [asked, said, asked, {"role": "assistant", "content": "good", "weight": 1}]}]
    report = report_of(tmp_path, tokenizer, rows)
    assert report.examples == ["q\nbad<|end|>q⟦\ngood<|end|>⟧"]
    assert report.ignored == {}
    everything = report_of(tmp_path, tokenizer, rows, loss="all")
    assert everything.ignored == {"weight": 1}


def test_bad_rows_are_counted_by_reason(tmp_path: Path, tokenizer: Tokenizer) -> None:
    null = PAIR | {"response": None}
    rows = [PAIR, null, "{oops", null, PAIR | {"system": "s"}, PAIR | {"id": 1}]
    with pytest.raises(Refused) as caught:
        report_of(tmp_path, tokenizer, rows, STRICT)
    assert len(caught.value.problems) == 3
    report = report_of(tmp_path, tokenizer, rows, STRICT, bad_rows="drop")
    assert (report.rows, report.kept, report.dropped, report.blank) == (6, 2, 4, 0)
    assert report.bad_rows == {
        '"response" is not text but null': 2,
        "not JSON: Expecting property name enclosed in double quotes": 1,
        "the chat template fails: System role not supported": 1,
    }
    path = tmp_path / "rows.jsonl"
    assert report.bad_examples == [
        f'{path}:2: row 2: "response" is not text but null',
        f"{path}:3:2: row 3: not JSON: Expecting property name enclosed in double quotes",
        f'{path}:4: row 4: "response" is not text but null',
    ]
    assert report.ignored == {"id": 1}


def test_rows_that_the_template_refuses(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [PAIR, PAIR | {"system": "s"}, PAIR, PAIR | {"system": "t"}]
    with pytest.raises(Refused) as caught:
        report_of(tmp_path, tokenizer, rows, STRICT)
    path, why = tmp_path / "rows.jsonl", "the chat template fails: System role not supported"
    first, second = caught.value.problems
    assert (first.where, first.what) == (f"{path}:2", f"row 2: {why}")
    assert (second.where, second.what) == (f"{path}:4", f"row 4: {why} (chat_template of tokenizer_config.json)")
    with pytest.raises(Refused):
        report_of(tmp_path, tokenizer, rows[1:2], STRICT, bad_rows="drop")


def test_unfit_rows_are_told_to_the_caller(tokenizer: Tokenizer) -> None:
    rows = [exchange("a", "", "b"), Conversation((Message("system", "s"), *exchange("a", "", "b").messages))]
    prompt_format, options = own_format(STRICT, tokenizer), {"limit": 99, "overlong": "drop", "loss": "response"}
    unfit: dict[int, str] = {}
    assert len(encode_rows(rows, prompt_format, scratch=SCRATCH, unfit=unfit, **options)) == 1
    assert list(unfit) == [1]
    with pytest.raises(UnfitRows):
        encode_rows(rows, prompt_format, scratch=SCRATCH, **options)


def test_a_conversation_that_begins_with_the_assistant(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """ShareGPT's greetings: no prompt leads to the first message, so it isn't learnt."""
    greeting = {"from": "gpt", "value": "Hello."}
    turn = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    template = "{% if messages[0].role == 'x' %}{% endif %}" + WRITES["objects"]
    report = report_of(tmp_path, tokenizer, [{"conversations": [greeting, *turn]}], template)
    assert report.examples == ["<assistant>Hello.<end><user>q<end><assistant>⟦a<end>⟧"]


def test_rows_read_are_those_of_max_rows(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [PAIR, PAIR | {"id": 1}, PAIR | {"response": None, "id": 2}]
    report = report_of(tmp_path, tokenizer, rows, max_rows=2)
    assert (report.rows, report.kept, report.bad_rows, report.ignored) == (2, 2, {}, {"id": 1})


def test_other_columns_make_other_data(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [PAIR | {"answer": "c"}]
    first = report_of(tmp_path, tokenizer, rows)
    second = report_of(tmp_path, tokenizer, rows, columns={"response": "answer"})
    assert first.fingerprint != second.fingerprint
    assert second.examples == ["a⟦\nc<|end|>⟧"]
    assert second.ignored == {}
