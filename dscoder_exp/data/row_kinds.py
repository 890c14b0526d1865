"""The kinds of row in a data set (conversation, instruction, prompt and response, text): what each key of one means.

The first entry with the key of a kind decides the kind of the whole data set; a row of another kind is bad.

Sources of the forms: Stanford Alpaca's and LLaMA-Factory's data/README (instruction, input, output, system, history;
ShareGPT's conversations of from and value, its roles function_call and observation); OpenAI's fine-tuning guide
(messages, weight, tools, tool_calls); TRL's dataset formats (prompt and completion, as texts or as messages).
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dscoder_exp.data.json_rows import DECODER, Fault, json_type
from dscoder_exp.data.messages import BadRow, optional_text, read_messages, text_of, transposed
from dscoder_exp.data.rows import AnyRow, Conversation, Message, Text, exchange

Entry = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One kind of row.

    Attributes:
        marks: JSON keys of which one identifies the kind.
        known: the keys that have a meaning; others are ignored.
        shape: description of such a row, for error messages.
        read: makes the row of an entry, and counts what it ignores. Raises BadRow.
    """

    name: str
    marks: tuple[str, ...]
    known: frozenset[str]
    shape: str
    read: Callable[[Entry, Counter[str]], AnyRow]

    def marked(self, entry: Any) -> bool:
        """Whether the entry has the key of this kind."""
        return isinstance(entry, dict) and any(entry.get(mark) is not None for mark in self.marks)


def _alpaca(entry: Entry, ignored: Counter[str]) -> Conversation:
    asked, said = text_of(entry, "instruction"), text_of(entry, "output")
    row = exchange(asked, optional_text(entry, "input"), said)
    return row if PLAIN_ALPACA.issuperset(entry) else _surrounded(entry, [*_history(entry), *row.messages], ignored)


def _pair(entry: Entry, ignored: Counter[str]) -> Conversation:
    """A prompt and its answer, each as text or as messages; of these the prompt's aren't learnt."""
    answer = "completion" if entry.get("response") is None and "completion" in entry else "response"
    if answer == "response" and entry.get("completion") is not None:
        ignored["completion"] += 1
    messages: list[Message] = []
    for name, role in (("prompt", "user"), (answer, "assistant")):
        if isinstance(entry.get(name), list):
            messages += read_messages(entry[name], name, learn=name != "prompt")
        else:
            messages.append(Message(role, text_of(entry, name)))
    return _surrounded(entry, [*_history(entry), *messages], ignored)


def _chat(entry: Entry, ignored: Counter[str]) -> Conversation:
    name = next((mark for mark in ("messages", "conversations") if entry.get(mark) is not None), "messages")
    if name == "messages" and entry.get("conversations") is not None:
        ignored["conversations"] += 1
    items = transposed(_json_in(entry, name))
    messages = read_messages(items, name)
    if any(item.get("weight") and message.role != "assistant" for item, message in zip(items, messages, strict=True)):
        ignored["weight of messages other than the assistant's"] += 1  # 0, not learnt, holds for them anyway
    return _surrounded(entry, messages, ignored)


def _surrounded(entry: Entry, messages: list[Message], ignored: Counter[str]) -> Conversation:
    """A conversation of the messages up to the last answer, with the row's `system` and `tools`."""
    roles = [message.role for message in messages]
    if "assistant" not in roles:
        found = f"their roles are {', '.join(map(json.dumps, dict.fromkeys(roles)))}" if roles else "there are none"
        raise BadRow(f"none of the messages is the assistant's: {found}")
    last = len(roles) - roles[::-1].index("assistant")
    if last < len(roles):
        ignored["messages after the last answer"] += 1
    system = optional_text(entry, "system")
    if system.strip() and roles[0] == "system":
        ignored["system beside a system message"] += 1
    elif system.strip():
        messages.insert(0, Message("system", system))
        last += 1
    return Conversation(tuple(messages[:last]), _tools(entry))


def _history(entry: Entry) -> list[Message]:
    """Earlier turns: pairs of a request and its answer, which is learnt too."""
    history = _json_in(entry, "history")
    if not history:
        return []
    pairs = isinstance(history, list) and all(isinstance(turn, list) and len(turn) == 2 for turn in history)
    if not pairs:
        raise BadRow('"history" is not a list of [request, answer]')
    found = []
    for number, (asked, said) in enumerate(history, 1):
        turn = {"request": asked, "answer": said}
        found.append(Message("user", text_of(turn, "request", f"turn {number} of history")))
        found.append(Message("assistant", text_of(turn, "answer", f"turn {number} of history")))
    return found


def _tools(entry: Entry) -> str:
    """The row's tools as JSON; "" for none."""
    given = _json_in(entry, "tools")
    if not given:
        return ""
    listed = given if isinstance(given, list) else [given]
    tools = [_parsed(tool, "tools") if isinstance(tool, str) else tool for tool in listed]
    if not all(isinstance(tool, dict) for tool in tools):
        raise BadRow('"tools" is not a list of objects')
    return json.dumps(tools, ensure_ascii=False, default=str)


def _json_in(entry: Entry, name: str) -> Any:
    """A value that may stand as JSON text in a table's cell, or in a row (`tools` of ShareGPT's); None for none."""
    value = entry.get(name)
    if not isinstance(value, str):
        return value
    return _parsed(value, name) if value.strip() else None


def _parsed(text: str, name: str) -> Any:
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError):
        raise BadRow(f'"{name}" is text that is no JSON') from None


ALSO = 'also "system", "history" ([[request, answer], …]) and "tools"'
SURROUNDING = frozenset({"system", "history", "tools"})
PLAIN_ALPACA = frozenset({"instruction", "input", "output"})
ALPACA = Kind(
    "alpaca",
    ("instruction",),
    PLAIN_ALPACA | SURROUNDING,
    f'a row is {{"instruction": text, "input": text (may be missing), "output": text}}, {ALSO}',
    _alpaca,
)
PAIRS = Kind(
    "prompt and response",
    ("prompt",),
    frozenset({"prompt", "response", "completion"}) | SURROUNDING,
    f'a row is {{"prompt": text, "response" or "completion": text}}, {ALSO}',
    _pair,
)
CHAT = Kind(
    "chat",
    ("messages", "conversations"),
    frozenset({"messages", "conversations", "system", "tools"}),
    'a row is {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}, …]}, or '
    '{"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": text}, …]}; also "system", '
    '"tools"',
    _chat,
)
TEXT = Kind(
    "text", ("text",), frozenset({"text"}), 'a row is {"text": text}', lambda entry, _: Text(text_of(entry, "text"))
)
KINDS = (CHAT, ALPACA, PAIRS, TEXT)  # in this order: alpaca's own files have a "text" beside their instruction
FORMS = (
    'a row has "messages" or "conversations"; or "instruction" and "output"; or "prompt" and "response" or '
    '"completion"; or "text"'
)
NAMES = sorted(frozenset().union(*(kind.known for kind in KINDS)))  # of the keys that have a meaning in a row


def kind_of(entries: Iterable[Any], kinds: Sequence[Kind] = KINDS) -> Kind | None:
    """The kind of the first entry that has the key of one; None if no entry has."""
    return next((kind for entry in entries for kind in kinds if kind.marked(entry)), None)


def kinds_with(names: Collection[str]) -> list[Kind]:
    """The kinds of row in which all these keys have a meaning."""
    return [kind for kind in KINDS if kind.known.issuperset(names)]


def read_row(entry: Any, kind: Kind, ignored: Counter[str]) -> AnyRow | Fault:
    """The row of an entry, or why it is none.

    Args:
        ignored: counts, for each thing in rows of which nothing is made, the rows.
    """
    if isinstance(entry, Fault):
        return entry
    if not isinstance(entry, dict):
        return Fault(f"not an object but {json_type(entry)}")
    try:
        return kind.read(entry, ignored)
    except BadRow as error:
        other = kind_of([entry])
        if other not in (None, kind) and not any(mark in entry for mark in kind.marks):
            return Fault(f"a row of another kind ({other.name}) than the rows before it ({kind.name})")
        return Fault(str(error), remedy=error.remedy)


def unknown_keys(entries: Iterable[Any], kind: Kind) -> Counter[str]:
    """For each key without a meaning in rows of this kind, the number of rows where it holds something."""
    rows = [entry for entry in entries if isinstance(entry, dict)]
    unknown = {key for keys in set(map(tuple, rows)) for key in keys} - kind.known
    if not unknown:
        return Counter()
    return Counter(key for entry in rows for key in unknown if entry.get(key) not in (None, "", [], {}))
