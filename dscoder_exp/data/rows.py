"""The kinds of row in a data set (instruction, conversation, text), and the check that an entry is one.

The first entry with the key of a kind decides the kind of the whole data set; a row of another kind is a fault.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dscoder_exp.data.text_files import TextFile


@dataclass(frozen=True)
class Row:
    """One request and its answer: what is asked, what it is asked about (may be empty), and the answer."""

    instruction: str
    input: str
    output: str


@dataclass(frozen=True)
class Message:
    role: str  # system, user or assistant
    content: str


@dataclass(frozen=True)
class Chat:
    """A conversation: an optional system message, then user and assistant messages in turn, an assistant's last."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Text:
    """A text to train on as it is, without a prompt."""

    text: str


AnyRow = Row | Chat | Text | TextFile


@dataclass(frozen=True)
class Fault:
    """Why an entry is no row; `column` only where the JSON itself is broken."""

    why: str
    column: int | None = None


@dataclass(frozen=True)
class Kind:
    """One kind of row.

    Attributes:
        key: the JSON key that identifies the kind.
        shape: description of such a row, for error messages.
        texts: keys whose values must be strings.
        make: builds the row from an entry without faults.
    """

    name: str
    key: str
    shape: str
    texts: tuple[str, ...]
    make: Callable[[dict[str, Any]], AnyRow]


ALPACA = Kind(
    "alpaca",
    "instruction",
    'a row is {"instruction": text, "input": text (may be missing), "output": text}',
    ("instruction", "output"),
    lambda entry: Row(entry["instruction"], entry.get("input") or "", entry["output"]),
)
PAIRS = Kind(
    "prompt and response",
    "prompt",
    'a row is {"prompt": text, "response": text}',
    ("prompt", "response"),
    lambda entry: Row(entry["prompt"], "", entry["response"]),
)
CHAT = Kind(
    "chat",
    "messages",
    'a row is {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}, …]}; '
    "a system message may come first",
    (),
    lambda entry: Chat(tuple(Message(item["role"], item["content"]) for item in entry["messages"])),
)
TEXT = Kind("text", "text", 'a row is {"text": text}', ("text",), lambda entry: Text(entry["text"]))
KINDS = (CHAT, ALPACA, PAIRS, TEXT)  # in this order: alpaca's own files have a "text" beside their instruction


def kind_of(entries: Iterable[Any]) -> Kind:
    """The kind of the first entry that has the key of one; alpaca if no entry has."""
    shown = (kind for entry in entries if isinstance(entry, dict) for kind in KINDS if kind.key in entry)
    return next(shown, ALPACA)


def fault_of(entry: Any, kind: Kind) -> Fault | None:
    """Why the entry is no row of this kind; None where it is one."""
    if isinstance(entry, Fault):
        return entry
    if not isinstance(entry, dict):
        return Fault(f"not an object but {json_type(entry)}")
    if kind.key not in entry and (other := kind_of([entry])).key in entry:
        return Fault(f"a row of another kind ({other.name}) than the rows before it ({kind.name})")
    if kind is CHAT:
        why = _chat_fault(entry)
    else:
        why = next((why for name in kind.texts if (why := _text_fault(entry, name))), None)
        if kind is ALPACA and entry.get("input") is not None:
            why = why or _text_fault(entry, "input")
    return Fault(why) if why else None


def _text_fault(entry: dict[str, Any], name: str, owner: str = "the row") -> str | None:
    if name not in entry:
        return f'{owner} has no "{name}"'
    value = entry[name]
    shown = f'"{name}"' if owner == "the row" else f'"{name}" of {owner}'
    if not isinstance(value, str):
        return f"{shown} is not text but {json_type(value)}"
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can write half of a surrogate pair, a tokenizer can't take it
        return f"{shown} holds half a character (a lone surrogate)"
    return None


def _chat_fault(entry: dict[str, Any]) -> str | None:
    messages = entry.get("messages")
    if not isinstance(messages, list):
        given = "messages" in entry
        return f'"messages" is not a list but {json_type(messages)}' if given else 'the row has no "messages"'
    expected = "user"
    for number, message in enumerate(messages, 1):
        owner = f"message {number}"
        if not isinstance(message, dict):
            return f"{owner} is not an object but {json_type(message)}"
        if why := next((why for name in ("role", "content") if (why := _text_fault(message, name, owner))), None):
            return why
        role = message["role"]
        if number == 1 and role == "system":
            continue
        if role != expected:
            return f'{owner} is of "{role}", where "{expected}" is next'
        expected = "assistant" if expected == "user" else "user"
    if not messages or messages[-1]["role"] != "assistant":
        return "the last message is not the assistant's" if messages else "there are no messages"
    return None


def json_type(value: Any) -> str:
    """JSON's name for a value's type."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def is_blank(row: AnyRow) -> bool:
    """Whether there is nothing to learn from a row: a request or an answer is missing (code_alpaca has a few such)."""
    if isinstance(row, Row):
        return not row.output.strip() or not (row.instruction.strip() or row.input.strip())
    if isinstance(row, Chat):
        return not all(message.content.strip() for message in row.messages if message.role != "system")
    return row.blank if isinstance(row, TextFile) else not row.text.strip()


def row_content(row: AnyRow) -> Iterator[bytes]:
    """The row's content as bytes, for hashing: equal rows have equal content."""
    if isinstance(row, TextFile):
        yield from row.content()
    elif isinstance(row, Row):
        yield json.dumps([row.instruction, row.input, row.output]).encode()
    elif isinstance(row, Chat):
        yield json.dumps([[message.role, message.content] for message in row.messages]).encode()
    else:
        yield row.text.encode()
