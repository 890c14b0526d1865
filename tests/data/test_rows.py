"""Rows: what each form of entry becomes, what is no row and why, blank rows, equal rows."""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dscoder_exp.data.json_rows import Fault
from dscoder_exp.data.row_kinds import KINDS, kind_of, read_row, unknown_keys
from dscoder_exp.data.rows import Conversation, Message, Text, exchange, is_blank, row_content

SYSTEM, ASKED, SAID = ({"role": role, "content": "x"} for role in ("system", "user", "assistant"))
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


def read(entry: Any) -> tuple[Any, dict[str, int]]:
    """The row, or why it is none; and what was counted as ignored."""
    kind, ignored = kind_of([entry]) or KINDS[1], Counter[str]()
    row = read_row(entry, kind, ignored)
    return row.why if isinstance(row, Fault) else row, dict(ignored)


def spoken(*messages: tuple[str, str], **changes: Any) -> Conversation:
    return Conversation(tuple(Message(role, content) for role, content in messages), **changes)


SIMPLE = spoken(("user", "a"), ("assistant", "b"))


@pytest.mark.parametrize(
    ("entry", "row"),
    [
        ({"instruction": "a", "output": "b", "input": None, "system": "", "history": []}, SIMPLE),
        ({"instruction": "a", "output": "b", "input": "i"}, exchange("a", "i", "b")),
        ({"prompt": "a", "response": "b"}, SIMPLE),
        ({"prompt": "a", "completion": "b"}, SIMPLE),
        ({"prompt": "a", "completion": "b", "response": None}, SIMPLE),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, SIMPLE),
        ({"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, SIMPLE),
        ({"messages": [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]}, SIMPLE),
        ({"messages": '[{"role": "human", "content": "a"}, {"role": "model", "content": "b"}]'}, SIMPLE),
        (
            {"instruction": "c", "input": "i", "output": "d", "system": "s", "history": [["a", "b"]]},
            Conversation(
                (
                    Message("system", "s"),
                    *SIMPLE.messages,
                    Message("user", "c", "i"),
                    Message("assistant", "d"),
                )
            ),
        ),
        (
            {"prompt": "c", "response": "d", "history": '[["a", "b"]]'},
            spoken(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")),
        ),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"},
            spoken(("system", "s"), ("user", "a"), ("assistant", "b")),
        ),
        (
            {"prompt": [ASKED, SAID, ASKED], "completion": [SAID]},  # TRL's: only the completion is learnt
            Conversation(
                (Message("user", "x"), Message("assistant", "x", learn=False), *exchange("x", "", "x").messages)
            ),
        ),
        (
            {"messages": [ASKED, SAID | {"weight": 0}, ASKED, SAID | {"weight": 1}]},
            Conversation(
                (Message("user", "x"), Message("assistant", "x", learn=False), *exchange("x", "", "x").messages)
            ),
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "c"}]}, SAID]},
            spoken(("user", "a\nc"), ("assistant", "x")),
        ),
        (
            {"messages": [SYSTEM, SYSTEM, ASKED, ASKED, SAID, SAID]},
            spoken(*[("system", "x")] * 2, *[("user", "x")] * 2, *[("assistant", "x")] * 2),
        ),
        ({"messages": [SAID, ASKED, SAID]}, spoken(("assistant", "x"), ("user", "x"), ("assistant", "x"))),
        ({"messages": [ASKED, SAID], "tools": []}, spoken(("user", "x"), ("assistant", "x"))),
        (
            {"messages": [ASKED, SAID], "tools": json.dumps([TOOL])},
            spoken(("user", "x"), ("assistant", "x"), tools=json.dumps([TOOL])),
        ),
        ({"text": "a", "url": "b"}, Text("a")),
    ],
)
def test_forms(entry: dict, row: Any) -> None:
    assert read(entry) == (row, {})


def test_keys_of_messages_go_to_the_template() -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [CALL], "name": None}
    told = {"role": "tool", "content": "2", "tool_call_id": "c1", "name": "add"}
    row, _ = read({"messages": [ASKED | {"name": "Ann"}, called, told, SAID]})
    assert [message.as_dict() for message in row.messages] == [
        {"role": "user", "content": "x", "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "2", "tool_call_id": "c1", "name": "add"},
        {"role": "assistant", "content": "x"},
    ]
    assert not is_blank(row)


@pytest.mark.parametrize("arguments", [{"a": 1}, '{"a": 1}'])
def test_arguments_are_objects_unless_the_template_wants_text(arguments: Any) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    row, _ = read({"messages": [ASKED, SAID | {"tool_calls": [call]}]})
    assert row.calls_tools
    assert row.messages[1].as_dict()["tool_calls"] == [CALL]
    as_text = row.with_text_arguments().messages[1].as_dict()["tool_calls"]
    assert as_text[0]["function"]["arguments"] == '{"a": 1}'


def test_sharegpt_calls_tools() -> None:
    called = {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'}
    entry = {"conversations": [{"from": "human", "value": "x"}, called, {"from": "observation", "value": "2"}]}
    row, ignored = read(entry | {"tools": '[{"name": "add"}]'})
    assert ignored == {"messages after the last answer": 1}
    assert [message.as_dict() for message in row.messages] == [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
    ]
    assert row.tools_list() == [{"name": "add"}]


@pytest.mark.parametrize(
    ("entry", "ignored"),
    [
        ({"messages": [ASKED, SAID, ASKED]}, "messages after the last answer"),
        ({"messages": [{**ASKED, "weight": 1}, SAID]}, "weight of messages other than the assistant's"),
        ({"messages": [SYSTEM, ASKED, SAID], "system": "y"}, "system beside a system message"),
        ({"prompt": "a", "response": "b", "completion": "c"}, "completion"),
    ],
)
def test_what_is_ignored_is_counted(entry: dict, ignored: str) -> None:
    assert read(entry)[1] == {ignored: 1}


def test_a_conversation_that_ends_with_the_user_is_learnt_up_to_there() -> None:
    assert read({"messages": [ASKED, SAID, ASKED]})[0] == spoken(("user", "x"), ("assistant", "x"))


def test_unknown_keys_that_hold_something_are_counted() -> None:
    entries = [
        {"instruction": "a", "output": "b", "id": 1, "tags": []},
        {"instruction": "a", "output": "b", "id": 2, "tags": ["x"], "input": "c", "note": None},
        "no row",
    ]
    assert unknown_keys(entries, KINDS[1]) == {"id": 2, "tags": 1}


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("text", "not an object but text"),
        ({"instruction": "a"}, 'there is no "output"'),
        ({"instruction": "a", "output": None}, '"output" is not text but null'),
        ({"instruction": "a", "output": "b", "input": {}}, '"input" is not text but an object'),
        ({"instruction": "a", "output": "b", "system": 3}, '"system" is not text but a number'),
        ({"instruction": "a", "output": "b", "history": [["a"]]}, '"history" is not a list of [request, answer]'),
        ({"instruction": "a", "output": "b", "history": "soon"}, '"history" is text that is no JSON'),
        ({"instruction": "a", "output": "b", "history": [["a", None]]}, '"answer" of turn 1 of history is not text'),
        ({"prompt": "a"}, 'there is no "response"'),
        ({"prompt": "a", "tools": [3], "response": "b"}, '"tools" is not a list of objects'),
        ({"messages": "x"}, '"messages" is text that is no JSON'),
        ({"messages": 3}, '"messages" is not a list but a number'),
        ({"messages": []}, "none of the messages is the assistant's: there are none"),
        ({"messages": [SYSTEM, ASKED]}, 'none of the messages is the assistant\'s: their roles are "system", "user"'),
        ({"messages": [ASKED, {"role": "assistant"}]}, 'message 2 has no "content"'),
        ({"messages": [ASKED, {"content": "x"}]}, 'message 2 has no "role"'),
        ({"messages": [ASKED, SAID | {"role": 1}]}, '"role" of message 2 is not text but a number'),
        ({"messages": [ASKED, SAID | {"content": None}]}, '"content" of message 2 is not text but null'),
        ({"messages": [ASKED, SAID | {"content": "\ud800"}]}, '"content" of message 2 holds half a character'),
        ({"messages": [ASKED, SAID | {"content": "\udcff"}]}, '"content" of message 2 is not UTF-8'),
        ({"messages": [ASKED, SAID | {"name": "\ud800"}]}, '"keys" of message 2 holds half a character'),
        ({"messages": ["x"]}, "message 1 is not an object but text"),
        ({"messages": [ASKED | {"content": [{"type": "image_url"}]}, SAID]}, 'a part of message 1 is of type "image'),
        ({"messages": [ASKED | {"content": [3]}, SAID]}, "a part of message 1 is not an object but a number"),
        ({"messages": [ASKED, SAID | {"weight": 0.5}]}, '"weight" of message 2 is 0.5; it may be 0 (not learnt) or 1'),
        ({"messages": [ASKED, SAID | {"tool_calls": "x"}]}, '"tool_calls" of message 2 is text that is no JSON'),
        ({"messages": [ASKED, SAID | {"tool_calls": [1]}]}, '"tool_calls" of message 2 is not a list of objects'),
        ({"conversations": [{"from": "function_call", "value": "{}"}]}, '"function_call" of message 1 is not {"name"'),
    ],
)
def test_what_is_no_row(entry: Any, why: str) -> None:
    assert read(entry)[0].startswith(why)


def test_blank_rows() -> None:
    def chat(*contents: str) -> Conversation:
        return spoken(*zip(("system", "user", "assistant", "user", "assistant"), contents, strict=False))

    rows = [exchange("a", "", " "), exchange("", " ", "b"), exchange("", "a", "b")]
    assert [is_blank(row) for row in rows] == [True, True, False]
    assert [is_blank(row) for row in (chat("", "a", "b"), chat("s", "a", "b", "c", " "))] == [False, True]
    assert [is_blank(row) for row in (Text("\n"), Text("a"))] == [True, False]
    assert is_blank(Conversation((Message("user", "a"), Message("assistant", "b", learn=False))))
    assert not is_blank(spoken(("user", "a"), ("assistant", "b"), ("tool", ""), ("assistant", "c")))


TEXTS = st.text("ab", max_size=2)
ROWS = st.builds(exchange, TEXTS, TEXTS, TEXTS) | st.builds(
    lambda text, learn, extra: Conversation((Message("user", text), Message("assistant", "b", "", learn, extra))),
    TEXTS,
    st.booleans(),
    st.sampled_from(["", '{"name": "a"}']),
)


@given(ROWS, ROWS)
def test_equal_rows_have_equal_content(one: Conversation, other: Conversation) -> None:
    assert (list(row_content(one)) == list(row_content(other))) == (one == other)
