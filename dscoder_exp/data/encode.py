"""Encoding rows as documents: token ids and labels.

A conversation is rendered and encoded as a whole, so its ids are those of transformers' `apply_chat_template`; which
tokens are answers is read off the offsets that the tokenizer gives.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dscoder_exp.data.chat_template import TemplateFailed
from dscoder_exp.data.documents import DocumentBuilder, Documents
from dscoder_exp.data.encode_text import add_texts
from dscoder_exp.data.prompt_format import PromptFormat, RenderedText
from dscoder_exp.data.rows import AnyRow, Conversation, Text, is_blank
from dscoder_exp.data.text_files import TextFile
from dscoder_exp.data.tool_calls import rendered

if TYPE_CHECKING:
    from tokenizers import Encoding

BATCH_ROWS = 1024  # encoded at once; bounds the memory, since an Encoding holds far more than its ids


class UnfitRows(ValueError):
    """The prompt format can't render some rows; `why` names the reason by the row's index."""

    def __init__(self, why: dict[int, str]) -> None:
        self.why = why
        super().__init__(f"{len(why)} rows")


class Encoded(NamedTuple):
    """A conversation's token ids, and [first, end) of each answer among them, its end token included."""

    ids: list[int]
    answers: list[tuple[int, int]]


def encode_rows(
    rows: Sequence[AnyRow],
    prompt_format: PromptFormat,
    *,
    limit: int,
    overlong: str,
    loss: str,
    scratch: Path,
    unfit: dict[int, str] | None = None,
) -> Documents:
    """Encode rows as documents: a conversation as its prompt format writes it; a text between bos and eos, all counted.

    Args:
        limit: the most tokens of a document, at least 2.
        overlong: "drop" leaves a longer conversation out; "truncate" cuts the answer that crosses the limit, but keeps
            its last token, which ends it. A conversation whose first prompt leaves no room for an answer is left out
            either way. So are rows without a request or an answer. A longer text becomes several documents, whatever
            this says.
        loss: "response" counts the answers, "all" every token but a document's first.
        scratch: directory for temporary files.
        unfit: gets the index of each row that the prompt format can't render, and why, and the row is left out.

    Raises:
        UnfitRows: there are such rows, and no `unfit` is given; those of the first batch that has any.
    """
    builder = DocumentBuilder(scratch)
    texts = [(index, row) for index, row in enumerate(rows) if isinstance(row, Text | TextFile) and not is_blank(row)]
    if texts:  # a source's rows are of one kind
        add_texts(builder, texts, prompt_format, limit=limit)
        return builder.documents()
    for index, item, encoding in _encoded(rows, prompt_format, unfit):
        document = _located(item, encoding)
        builder.spelt += item.as_text
        builder.ignored.update(item.ignored)
        if len(document.ids) > limit:
            document = truncate(document, limit) if overlong == "truncate" else Encoded([], [])
            builder.truncated += bool(document.ids)
        if document.ids:
            builder.add(index, _spans(document, loss))
    return builder.documents()


def _encoded(
    rows: Sequence[AnyRow], prompt_format: PromptFormat, unfit: dict[int, str] | None
) -> Iterator[tuple[int, RenderedText, "Encoding"]]:
    """Each row's index, text and encoding. While the tokenizer's threads, which need no GIL, encode a batch, the next
    one is rendered, and the caller works on the one before.

    Raises:
        UnfitRows: as `encode_rows`.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="tokenizer") as tokenizer:
        encoding: Future[list[Encoding]] | None = None
        items: dict[int, RenderedText] = {}
        for first in range(0, len(rows) + BATCH_ROWS, BATCH_ROWS):
            batch = [(i, row) for i, row in enumerate(rows[first : first + BATCH_ROWS], first) if not is_blank(row)]
            next_items, failed = _rendered(batch, prompt_format)
            if failed and unfit is None:
                raise UnfitRows(failed)
            elif unfit is not None:
                unfit |= failed
            done = encoding and encoding.result()
            encoding = tokenizer.submit(prompt_format.encode, list(next_items.values()))
            for (index, item), found in zip(items.items(), done or (), strict=True):
                yield index, item, found
            items = next_items


def _rendered(
    batch: Sequence[tuple[int, AnyRow]], prompt_format: PromptFormat
) -> tuple[dict[int, RenderedText], dict[int, str]]:
    """The rows as text, by their index; and why the prompt format can't render the others."""
    items: dict[int, RenderedText] = {}
    failed: dict[int, str] = {}
    for index, row in batch:
        assert isinstance(row, Conversation)
        try:
            items[index] = rendered(row, prompt_format)
        except TemplateFailed as error:
            failed[index] = str(error)
    return items, failed


def _located(rendered: RenderedText, encoding: "Encoding") -> Encoded:
    """The answers' spans of characters as spans of tokens: from the first token that reaches into an answer."""
    answers = [(_token_at(encoding, first), _token_at(encoding, end, behind=True)) for first, end in rendered.answers]
    return Encoded(encoding.ids, answers)


def _token_at(encoding: "Encoding", character: int, *, behind: bool = False) -> int:
    """Index of the token that holds a character.

    Args:
        behind: of the first token that doesn't begin before it.
    """
    token = encoding.char_to_token(character)
    if token is not None and not (behind and encoding.token_to_chars(token)[0] < character):  # type: ignore[index]
        return token
    if behind:  # the text's end, a token that reaches over it, or a character that the tokenizer has dropped
        return bisect_left(encoding.offsets, character, key=itemgetter(0))
    return bisect_right(encoding.offsets, character, key=itemgetter(1))


def truncate(document: Encoded, limit: int) -> Encoded:
    """Cut a conversation to `limit` tokens, in an answer, whose last token stays the last one.

    Returns:
        Whole turns, then as much of the next answer as fits; no ids if not even one answer has room for two tokens.
    """
    whole = [(first, end) for first, end in document.answers if end <= limit]
    crossing = next(((first, end) for first, end in document.answers if end > limit), None)
    if crossing is not None and crossing[0] + 2 <= limit:
        ids = [*document.ids[: limit - 1], document.ids[crossing[1] - 1]]
        return Encoded(ids, [*whole, (crossing[0], limit)])
    return Encoded(document.ids[: whole[-1][1]], whole) if whole else Encoded([], [])


def _spans(document: Encoded, loss: str) -> list[tuple[list[int], bool]]:
    """The document in pieces, each with whether the loss counts it."""
    if loss == "all":
        return [(document.ids, True)]
    spans, last = [], 0
    for first, end in document.answers:
        spans += [(document.ids[last:first], False), (document.ids[first:end], True)]
        last = end
    return [*spans, (document.ids[last:], False)]
