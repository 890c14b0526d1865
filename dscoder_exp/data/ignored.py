"""What of the rows a chat template makes nothing of: found by rendering a few rows with and without it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from dscoder_exp.data.chat_template import TemplateFailed
from dscoder_exp.data.prompt_format import PromptFormat
from dscoder_exp.data.rows import AnyRow, Conversation, Message
from dscoder_exp.data.tool_calls import rendered

PROBES = 3  # rows that are rendered for each thing
Change = Callable[[Conversation], Conversation]  # takes the thing away


def ignored_by(prompt_format: PromptFormat, rows: Sequence[AnyRow]) -> Counter[str]:
    """What in the rows the template doesn't write, and the number of rows that hold it.

    These are asked for: `tools`, the further keys of messages, and messages of other roles than user and assistant.
    A template that fails without a thing uses it.
    """
    counts: Counter[str] = Counter()
    probes: dict[str, list[tuple[Conversation, Change]]] = {}
    for row in rows:
        if isinstance(row, Conversation) and not _is_plain(row):
            for name, change in _things(row).items():
                counts[name] += 1
                if len(found := probes.setdefault(name, [])) < PROBES:
                    found.append((row, change))
    unused = {name for name, cases in probes.items() if not any(_matters(prompt_format, *case) for case in cases)}
    return Counter({name: count for name, count in counts.items() if name in unused})


def _is_plain(row: Conversation) -> bool:
    return not row.tools and all(m.role in ("user", "assistant") and not m.extra for m in row.messages)


def _things(row: Conversation) -> dict[str, Change]:
    found: dict[str, Change] = {"tools": lambda row: replace(row, tools="")} if row.tools else {}
    for index, message in enumerate(row.messages):
        role, later = message.role, message.role == "system" and index > 0
        if role not in ("user", "assistant"):
            name = f"{role} messages" + (" after the first message" if later else "")
            found[name] = partial(_changed, change=_another_text, role=role, first=int(later))
        for key in message.extras():
            if key != "content":
                found[f"{key} of {role} messages"] = partial(
                    _changed, change=partial(Message.without, key=key), role=role
                )
    return found


def _changed(row: Conversation, change: Callable[[Message], Message], role: str, first: int = 0) -> Conversation:
    """With the messages of a role changed, from message `first` on."""
    changed = [change(m) if m.role == role and at >= first else m for at, m in enumerate(row.messages)]
    return replace(row, messages=tuple(changed))


def _another_text(message: Message) -> Message:
    return replace(message, content=f"{message.content} (and another word)")


def _matters(prompt_format: PromptFormat, row: Conversation, change: Change) -> bool:
    try:
        return rendered(row, prompt_format).text != rendered(change(row), prompt_format).text
    except TemplateFailed:
        return True
