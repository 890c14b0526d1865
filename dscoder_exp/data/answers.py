"""Where the assistant's answers stand in a text that a chat template has written without marking them."""

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from typing import Any

from dscoder_exp.data.chat_template import TemplateFailed
from dscoder_exp.data.special_tokens import SpecialTokens

NOT_LEARNT = "answers that the template changes once another follows (not learnt)"
LEFT_OUT = "text of answers that the template leaves out"
Span = tuple[int, int]  # [first, end) in characters


def find_answers(
    whole: str,
    messages: Sequence[dict[str, Any]],
    render: Callable[[int, bool], str],
    special: SpecialTokens,
    ends: Collection[str | None],
) -> list[Span | None]:
    """Where each assistant's message is in `whole`; None for one that the template later writes otherwise.

    An answer begins where the prompt before it ends. Some templates end a prompt with what they don't write before a
    finished answer (an opened <think>): there it begins where the two texts part.

    Args:
        render: writes the first so many messages, with the prompt for the next one or without.
        ends: tokens that end an answer as the model's files say.

    Raises:
        TemplateFailed: an answer isn't where its prompt ends.
    """
    spans: list[Span | None] = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        if index == 0:  # a greeting, as in ShareGPT: no prompt leads to it, and templates read messages[0]
            spans.append(None)
            continue
        prompt = render(index, True)
        upto = whole if index == len(messages) - 1 else render(index + 1, False)
        first = len(prompt)
        if not upto.startswith(prompt):
            first = _common(prompt, upto)
            if first < len(render(index, False)):
                what = f"the text up to message {index + 1} isn't what a text with that message begins with"
                raise TemplateFailed(what)
        content = (message["content"] or "").strip()
        at = upto.find(content, first)  # a control token before the content begins the message
        said = at + len(content) if at >= 0 else first
        kept = len(upto) if whole.startswith(upto) else _common(whole, upto)
        found = [token for token in special.found_in(upto, said) if token.end() <= kept]
        chosen = next((token for token in found if token[0] in ends), None)
        if chosen is None and found:
            chosen = found[0 if len(found) == 1 or _prompts_again(upto, said, prompt, special) else -1]
        end = len(upto) if chosen is None else chosen.end()
        spans.append((first, end) if end <= kept else None)
    if spans and not any(spans):
        raise TemplateFailed("no answer is where its prompt ends")
    return spans


def _prompts_again(text: str, said: int, prompt: str, special: SpecialTokens) -> bool:
    """Whether the text behind an answer ends as the prompt before it does: some templates write the next prompt whether
    it is asked for or not (Llama-3's first one).
    """
    common = _common(text[:said:-1], prompt[::-1])
    return next(special.found_in(text, max(said, len(text) - common)), None) is not None


def ignored_of(text: str, messages: Sequence[dict[str, Any]], answers: Sequence[Span | None]) -> frozenset[str]:
    """What of the answers, whose spans in the text are given, the template makes nothing of: NOT_LEARNT, LEFT_OUT."""
    found = set()
    said = [(at, message["content"] or "") for at, message in enumerate(messages) if message["role"] == "assistant"]
    for (at, content), span in zip(said, answers, strict=True):
        if span is None and at > 0:
            found.add(NOT_LEARNT)
        elif span is not None:
            written = text[max(0, span[0] - len(content)) : span[1]]  # it may have begun in the prompt: <think>
            without = content.strip() not in written
            if without and "".join(content.split()) not in "".join(written.split()):  # some templates strip lines
                found.add(LEFT_OUT)
    return frozenset(found)


def _common(one: str, other: str) -> int:
    """Characters with which both begin."""
    lengths = range(1, min(len(one), len(other)) + 1)
    return bisect_left(lengths, True, key=lambda length: one[:length] != other[:length])
