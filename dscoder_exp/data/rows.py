"""Rows of a data set, whatever file and form they came in: conversations and texts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from dscoder_exp.data.text_files import TextFile


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: system, user, assistant, or another that the chat template knows (tool).
        content: the text; of an alpaca row's request the instruction alone.
        input: what an alpaca row's instruction is about, apart from it because some templates set it apart.
        learn: whether the loss counts an assistant's message.
        extra: JSON object of further keys for the chat template, such as name and tool_calls; "" for none.
        text_arguments: whether the template gets the arguments of `tool_calls` as the row has them, which may be JSON
            text; else as objects.
    """

    role: str
    content: str
    input: str = ""
    learn: bool = True
    extra: str = ""
    text_arguments: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The message as chat templates take it."""
        found: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.input.strip():
            found |= {
                "content": f"{self.content}\n{self.input}",
                "instruction": self.content,
                "input": self.input,
            }
        return found | self.extras() if self.extra else found

    def extras(self) -> dict[str, Any]:
        """`extra`, parsed."""
        found: dict[str, Any] = json.loads(self.extra) if self.extra else {}
        for call in found.get("tool_calls", []):
            if isinstance(function := call.get("function", call), dict) and "arguments" in function:
                function["arguments"] = _arguments(function["arguments"], as_text=self.text_arguments)
        return found

    def without(self, key: str) -> "Message":
        """The message without a key of `extra`."""
        left = {name: value for name, value in json.loads(self.extra or "{}").items() if name != key}
        return replace(self, extra=json.dumps(left, ensure_ascii=False) if left else "")


def _arguments(given: Any, *, as_text: bool) -> Any:
    """A call's arguments in the one form or the other; text that is no JSON object stays as it is."""
    if as_text:
        return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    if isinstance(given, str):
        try:
            parsed = json.loads(given or "{}")
        except ValueError:
            return given
        return parsed if isinstance(parsed, dict) else given
    return given


@dataclass(frozen=True)
class Conversation:
    """Messages, the last one the assistant's.

    Attributes:
        tools: JSON list of the tools that the conversation may call, in the form the chat template takes; "" for none.
    """

    messages: tuple[Message, ...]
    tools: str = ""

    def tools_list(self) -> list[Any] | None:
        """`tools`, parsed."""
        return json.loads(self.tools) if self.tools else None

    @property
    def calls_tools(self) -> bool:
        """Whether a message has tool_calls."""
        return any('"tool_calls"' in message.extra for message in self.messages)

    def with_text_arguments(self) -> "Conversation":
        """The conversation for a template that takes the arguments of calls as text."""
        return replace(self, messages=tuple(replace(message, text_arguments=True) for message in self.messages))


def exchange(instruction: str, input: str, output: str) -> Conversation:
    """One request, what it is about (may be empty), and its answer."""
    return Conversation((Message("user", instruction, input), Message("assistant", output)))


@dataclass(frozen=True)
class Text:
    """A text to train on as it is, without a prompt."""

    text: str


AnyRow = Conversation | Text | TextFile


def is_blank(row: AnyRow) -> bool:
    """Whether there is nothing to learn from a row: a request or an answer is missing (code_alpaca has a few such), or
    every answer has weight 0.
    """
    if isinstance(row, Conversation):
        said = [message for message in row.messages if message.role in ("user", "assistant")]
        return not all(f"{message.content}{message.input}{message.extra}".strip() for message in said) or not any(
            message.learn for message in said if message.role == "assistant"
        )
    return row.blank if isinstance(row, TextFile) else not row.text.strip()


def row_content(row: AnyRow) -> Iterator[bytes]:
    """All that a row says: equal rows have equal content."""
    if isinstance(row, TextFile):
        yield from row.content()
    elif isinstance(row, Text):
        yield row.text.encode()
    else:
        yield json.dumps(_content(row)).encode()


def _content(row: Conversation) -> list[Any]:
    """A single request and answer as one flat list, whichever kind of row they came from."""
    plain = not row.tools and not any(message.extra or not message.learn for message in row.messages)
    if plain and [message.role for message in row.messages] == ["user", "assistant"]:
        request, answer = row.messages
        return [request.content, request.input, answer.content]
    if plain and not any(message.input for message in row.messages):
        return [[message.role, message.content] for message in row.messages]
    return [row.tools, *([m.role, m.content, m.input, m.extra, m.learn] for m in row.messages)]
