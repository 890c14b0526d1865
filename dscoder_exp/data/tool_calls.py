"""Rendering conversations, some of which call tools: templates take the arguments of a call as an object or as text.

Transformers documents objects, and vLLM makes objects of OpenAI's JSON text (entrypoints/chat_utils.py); some
templates, such as DeepSeek-V3's, put the text together themselves and take nothing else.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from dscoder_exp.data.chat_template import TemplateFailed
from dscoder_exp.data.prompt_format import PromptFormat, RenderedText
from dscoder_exp.data.rows import Conversation, Message


def rendered(row: Conversation, prompt_format: PromptFormat) -> RenderedText:
    """The conversation as the format writes it, with arguments in the form that it takes.

    Raises:
        TemplateFailed: the template doesn't take the conversation, or leaves out a message's calls, its only content.
    """
    if not row.calls_tools:
        return prompt_format.conversation(row)
    found = _first_taken(row, prompt_format)
    for index, message in enumerate(row.messages):
        if not message.content.strip() and any(_calls(message)) and not _writes_calls(row, index, found, prompt_format):
            raise TemplateFailed(f"message {index + 1} is nothing but tool_calls, which the template doesn't write")
    return found


def _writes_calls(row: Conversation, index: int, found: RenderedText, prompt_format: PromptFormat) -> bool:
    """Whether the template has written the calls of a message: their names, which stand among the tools too."""
    names = [_name(call) for call in _calls(row.messages[index])]
    if any(name not in found.text for name in names):
        return False
    if not any(name in row.tools for name in names):
        return True
    without = [m.without("tool_calls") if at == index else m for at, m in enumerate(row.messages)]
    try:
        return _first_taken(replace(row, messages=tuple(without)), prompt_format).text != found.text
    except TemplateFailed:
        return True


def _first_taken(row: Conversation, prompt_format: PromptFormat) -> RenderedText:
    """With arguments as objects, else as text; then with empty text for a content of null."""
    failed: TemplateFailed | None = None
    full = replace(row, messages=tuple(message.without("content") for message in row.messages))
    for variant in (row, row.with_text_arguments(), full, full.with_text_arguments()):
        try:
            found = prompt_format.conversation(variant)
        except TemplateFailed as error:
            failed = failed or error
        else:
            if not _shows_python(found.text, variant):
                return found
    raise failed or TemplateFailed("the chat template writes the arguments of tool_calls as Python does")


def _shows_python(text: str, row: Conversation) -> bool:
    """Whether the template wrote an object of arguments as Python does: it takes text."""
    given = [call.get("arguments") for message in row.messages for call in _calls(message)]
    return any(str(value) != json.dumps(value) and str(value) in text for value in given if isinstance(value, dict))


def _name(call: dict[str, Any]) -> str:
    return name if isinstance(name := call.get("name"), str) else ""


def _calls(message: Message) -> Iterator[dict[str, Any]]:
    for call in message.extras().get("tool_calls", []):
        yield function if isinstance(function := call.get("function"), dict) else call
