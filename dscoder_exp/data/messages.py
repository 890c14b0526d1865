"""Reading the messages of a row: OpenAI's (role, content) and ShareGPT's (from, value)."""

import json
from typing import Any

from dscoder_exp.data.file_kinds import NOT_UTF8
from dscoder_exp.data.json_rows import DECODER, json_type
from dscoder_exp.data.rows import Message

# Other names of the two roles that every template knows. Any other role is left to the template.
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}
ROLES |= {"model": "assistant"}
SHAREGPT_ROLES = {"observation": "tool", "function_response": "tool", "function_call": "assistant"}
TEXT_PARTS = ("text", "input_text", "output_text")  # OpenAI's types of a part that is text
TAKEN = {"role", "content", "from", "value", "weight"}  # the other keys go to the template
PART_SEPARATOR = "\n"  # as vLLM (entrypoints/chat_utils.py) and llama.cpp (common/chat.cpp) join parts of text


class BadRow(ValueError):
    """Why an entry is no row; `remedy` as a Fault's."""

    def __init__(self, why: str, remedy: str | None = None) -> None:
        super().__init__(why)
        self.remedy = remedy


def text_of(entry: dict[str, Any], name: str, owner: str = "") -> str:
    """The text under a key.

    Args:
        owner: what holds the key, if not the row itself.

    Raises:
        BadRow: there is none, or it isn't whole.
    """
    value = entry.get(name)
    if not isinstance(value, str):
        if name not in entry:
            raise BadRow(f'{owner} has no "{name}"' if owner else f'there is no "{name}"')
        raise BadRow(f"{_shown(name, owner)} is not text but {json_type(value)}")
    return _whole(value, name, owner)


def optional_text(entry: dict[str, Any], name: str) -> str:
    """The text under a key; "" if there is none, or null. Raises BadRow for anything else."""
    return "" if entry.get(name) is None else text_of(entry, name)


def _whole(text: str, name: str, owner: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if "\udc80" <= text[error.start] <= "\udcff":  # a byte that UTF-8 can't decode (json_rows.decoded)
            raise BadRow(f"{_shown(name, owner)} is not UTF-8", NOT_UTF8) from None
        raise BadRow(f"{_shown(name, owner)} holds half a character (a lone surrogate)") from None
    return text


def _shown(name: str, owner: str) -> str:
    return f'"{name}" of {owner}' if owner else f'"{name}"'


def read_messages(value: Any, name: str, *, learn: bool = True) -> list[Message]:
    """The messages that stand under a row's key `name`.

    Args:
        learn: whether answers without a weight of their own are learnt.

    Raises:
        BadRow: one isn't a message.
    """
    if value is None:
        raise BadRow(f'there is no "{name}"')
    if not isinstance(value, list):
        raise BadRow(f'"{name}" is not a list but {json_type(value)}')
    return [_message(item, f"message {number}", learn) for number, item in enumerate(value, 1)]


def transposed(columns: Any) -> Any:
    """Messages that are given as one list a key, as Sequence of Hugging Face's datasets stores them, as a list of them;
    anything else as it is.
    """
    lists = list(columns.values()) if isinstance(columns, dict) else []
    if not lists or not all(isinstance(values, list) and len(values) == len(lists[0]) for values in lists):
        return columns
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]


def _message(item: Any, owner: str, learn: bool) -> Message:
    if not isinstance(item, dict):
        raise BadRow(f"{owner} is not an object but {json_type(item)}")
    from_sharegpt = item.get("role") is None and "from" in item
    given = text_of(item, "from" if from_sharegpt else "role", owner)
    role = ROLES.get(given, SHAREGPT_ROLES.get(given, given) if from_sharegpt else given)
    key = "value" if "value" in item and item.get("content") is None else "content"
    extra = {} if TAKEN.issuperset(item) else _extra(item, owner)
    if from_sharegpt and given == "function_call":
        extra["tool_calls"] = _called(text_of(item, key, owner), owner)
        content: str | None = None
    else:
        content = _content(item, key, owner, may_lack="tool_calls" in extra)
    if content is None:
        extra["content"] = None  # some templates look for just this before they write tool_calls
    # str: Parquet has dates and the like, too
    further = _whole(json.dumps(extra, ensure_ascii=False, default=str), "keys", owner) if extra else ""
    return Message(role, content or "", learn=role != "assistant" or _learnt(item, owner, learn), extra=further)


def _content(item: dict[str, Any], key: str, owner: str, *, may_lack: bool) -> str | None:
    value = item.get(key)
    if value is None and may_lack:
        return None
    return _joined(value, owner) if isinstance(value, list) else text_of(item, key, owner)


def _joined(parts: list[Any], owner: str) -> str:
    """The text of a content that is given in parts."""
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(_whole(part, "content", owner))
        elif not isinstance(part, dict):
            raise BadRow(f"a part of {owner} is not an object but {json_type(part)}")
        elif (given := part.get("type", "text")) not in TEXT_PARTS:
            raise BadRow(f'a part of {owner} is of type "{given}"; only text is read')
        else:
            texts.append(text_of(part, "text", f"a part of {owner}"))
    return PART_SEPARATOR.join(texts)


def _extra(item: dict[str, Any], owner: str) -> dict[str, Any]:
    """The further keys of a message that hold something, for the template."""
    found = {key: value for key, value in item.items() if key not in TAKEN and value is not None}
    if "tool_calls" in found and not _calls(found, owner):
        del found["tool_calls"]
    return found


def _calls(extra: dict[str, Any], owner: str) -> list[dict[str, Any]]:
    """`tool_calls`, which may be JSON text, as a list; left in `extra` so."""
    value = extra["tool_calls"]
    value = _parsed(value or "[]", "tool_calls", owner) if isinstance(value, str) else value
    if not (isinstance(value, list) and all(isinstance(call, dict) for call in value)):
        raise BadRow(f'"tool_calls" of {owner} is not a list of objects')
    extra["tool_calls"] = value
    return value


def _called(text: str, owner: str) -> list[dict[str, Any]]:
    """ShareGPT's function_call, the JSON of one call or of a list of them, as tool_calls."""
    value = _parsed(text, "function_call", owner)
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise BadRow(f'"function_call" of {owner} is not {{"name": …, "arguments": …}}')
    return [{"type": "function", "function": call} for call in calls]


def _parsed(text: str, name: str, owner: str) -> Any:
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError):
        raise BadRow(f'"{name}" of {owner} is text that is no JSON') from None


def _learnt(item: dict[str, Any], owner: str, learn: bool) -> bool:
    weight = item.get("weight")
    if weight is None:
        return learn
    if weight not in (0, 1):
        raise BadRow(f'"weight" of {owner} is {weight!r}; it may be 0 (not learnt) or 1')
    return bool(weight)
