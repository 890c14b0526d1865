"""Checks of rows: conversations, blank rows, equal rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dscoder_exp.data.rows import CHAT, Chat, Message, Row, Text, fault_of, is_blank, row_content

SYSTEM, ASKED, SAID = ({"role": role, "content": "x"} for role in ("system", "user", "assistant"))


@pytest.mark.parametrize("messages", [[ASKED, SAID], [SYSTEM, ASKED, SAID], [ASKED, SAID, ASKED, SAID | {"name": "y"}]])
def test_conversations(messages: list) -> None:
    assert fault_of({"messages": messages}, CHAT) is None


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({}, 'the row has no "messages"'),
        ({"messages": "x"}, '"messages" is not a list but text'),
        ({"messages": []}, "there are no messages"),
        ({"messages": [SYSTEM]}, "the last message is not the assistant's"),
        ({"messages": [ASKED, SAID, ASKED]}, "the last message is not the assistant's"),
        ({"messages": [ASKED, ASKED]}, 'message 2 is of "user", where "assistant" is next'),
        ({"messages": [ASKED, SYSTEM, SAID]}, 'message 2 is of "system", where "assistant" is next'),
        ({"messages": [SAID]}, 'message 1 is of "assistant", where "user" is next'),
        ({"messages": [{"role": "tool", "content": "x"}]}, 'message 1 is of "tool", where "user" is next'),
        ({"messages": [ASKED, {"role": "assistant"}]}, 'message 2 has no "content"'),
        ({"messages": [ASKED, SAID | {"content": None}]}, '"content" of message 2 is not text but null'),
        ({"messages": [ASKED, SAID | {"content": "\ud800"}]}, '"content" of message 2 holds half a character'),
        ({"messages": ["x"]}, "message 1 is not an object but text"),
    ],
)
def test_faulty_conversations(entry: dict, why: str) -> None:
    fault = fault_of(entry, CHAT)
    assert fault is not None
    assert fault.why.startswith(why)


def test_blank_rows() -> None:
    def chat(*contents: str) -> Chat:
        return Chat(tuple(map(Message, ("system", "user", "assistant", "user", "assistant"), contents)))

    assert [is_blank(row) for row in (Row("a", "", " "), Row("", " ", "b"), Row("", "a", "b"))] == [True, True, False]
    assert [is_blank(row) for row in (chat("", "a", "b"), chat("s", "a", "b", "c", " "))] == [False, True]
    assert [is_blank(row) for row in (Text("\n"), Text("a"))] == [True, False]


TEXTS = st.text("ab", max_size=2)


@given(*[st.builds(Row, TEXTS, TEXTS, TEXTS)] * 2)
def test_equal_rows_have_equal_content(one: Row, other: Row) -> None:
    assert (list(row_content(one)) == list(row_content(other))) == (one == other)
