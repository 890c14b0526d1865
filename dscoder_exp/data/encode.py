"""Encoding rows as documents: token ids and labels.

Prompt and answer are encoded separately. Encoded together, a token could span the boundary (a BPE merges a newline with
the space after it): it would belong to neither, and the prompt's ids would differ from those that task=predict feeds to
the model. Encoded separately, the ids before the boundary are those of `encode_prompts`, which predict uses too.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dscoder_exp.data.conversation import EOS_MARK, Specials, Turn, UnfitConversation, specials_of
from dscoder_exp.data.documents import DocumentBuilder, Documents
from dscoder_exp.data.encode_text import add_texts
from dscoder_exp.data.rows import AnyRow, Chat, Row, Text, is_blank
from dscoder_exp.data.templates import PLAIN, PromptFormat
from dscoder_exp.data.text_files import TextFile
from dscoder_exp.schema.errors import refuse

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TurnIds(NamedTuple):
    """Token ids of one turn, without the eos that follows the answer."""

    prompt: list[int]
    answer: list[int]


def token_count(turns: list[TurnIds]) -> int:
    """Number of tokens in the document made of these turns, with an eos after each answer."""
    return sum(len(turn.prompt) + len(turn.answer) + 1 for turn in turns)


def truncate(turns: list[TurnIds], limit: int) -> list[TurnIds]:
    """Cut a conversation to `limit` tokens: whole turns, then as much of the next turn's answer as fits before its eos.

    Returns:
        The turns that are left; none if the first prompt leaves no room for one token of the answer and the eos.
    """
    kept: list[TurnIds] = []
    for turn in turns:
        room = limit - token_count(kept) - len(turn.prompt) - 1
        if room < 1:
            break
        kept.append(TurnIds(turn.prompt, turn.answer[:room]))
        if len(turn.answer) > room:
            break
    return kept


BATCH_ROWS = 2048  # encoded at once; bounds the memory, since an Encoding holds far more than its ids
BETWEEN_WORDS = re.compile(r".*[^\W\d_](?= [^\W\d_])", re.DOTALL)


class UnfitRow(ValueError):
    """The prompt format can't render row `index`."""

    def __init__(self, index: int, why: str) -> None:
        self.index = index
        super().__init__(why)


def encode_prompts(
    tokenizer: "Tokenizer",
    template: PromptFormat,
    prompts: Sequence[str],
    bos_token_id: int | None,
    eos_token_id: int | None = None,
) -> list[list[int]]:
    """Token ids of rendered prompts, with bos where the format has one: the same in training and in prediction.

    Args:
        eos_token_id: needed only for prompts of a Jinja template that writes eos_token.

    Raises:
        Refused: a prompt contains eos_token and `eos_token_id` is None.
    """
    if eos_token_id is None and any(EOS_MARK in prompt for prompt in prompts):
        raise refuse("model.eos_token_id", "the prompt format writes eos_token, but the model has none", "set the id")
    specials = specials_of(tokenizer, bos_token_id, eos_token_id)
    texts = [specials.fill(prompt) for prompt in prompts]
    if template.bos is None:
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=True)]
    shared, rest = _shared_prefix(tokenizer, texts)
    first = [bos_token_id, *shared] if template.bos and bos_token_id is not None else shared
    return [first + ids for ids in _encode(tokenizer, rest)]


def _shared_prefix(tokenizer: "Tokenizer", texts: list[str]) -> tuple[list[int], list[str]]:
    """The ids of the prefix that all texts share, and the rest of each text.

    Two thirds of a prompt in DeepSeek's format are its system sentence, the same in every row: it is encoded only once.
    The prefix ends between two words, where tokenizers split as well. Whether this one
    does is checked on the first and the last text; if not, nothing is shared.
    """
    low, high = (min(texts), max(texts)) if len(texts) > 2 else ("", "")
    common = next((at for at, (one, other) in enumerate(zip(low, high, strict=False)) if one != other), len(low))
    match = BETWEEN_WORDS.match(low, 0, common)
    if match is None:
        return [], texts
    rest = [text[match.end() :] for text in texts]
    (shared,) = _encode(tokenizer, [match[0]])
    ends = _encode(tokenizer, [rest[0], rest[-1]])
    same = _encode(tokenizer, [texts[0], texts[-1]]) == [shared + ids for ids in ends]
    return (shared, rest) if same else ([], texts)


def _encode(tokenizer: "Tokenizer", texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts, without special tokens. The library encodes on all cores."""
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def encode_rows(
    rows: Sequence[AnyRow],
    template: PromptFormat,
    tokenizer: "Tokenizer",
    *,
    bos_token_id: int | None,
    eos_token_id: int,
    limit: int,
    overlong: str,
    loss: str,
    scratch: Path,
) -> Documents:
    """Encode rows as documents: prompt, answer and eos of each turn. A text is one answer without a prompt.

    Args:
        limit: the most tokens of a document, at least 2.
        overlong: what to do with a conversation above the limit: "drop" it, or "truncate" it and keep the eos. It is
            dropped either way if its first prompt leaves no room for an answer, and so are blank rows. A text above the
            limit becomes several documents, whatever `overlong` is.
        loss: "response" counts the answers, each with its eos; "all" counts every token but a document's first.
        scratch: directory for temporary files, 8 bytes a token.

    Raises:
        UnfitRow: the prompt format can't render a row.
    """
    tokenizer.no_truncation()  # a tokenizer.json may set both, and either would silently change the rows
    tokenizer.no_padding()
    specials = specials_of(tokenizer, bos_token_id, eos_token_id)
    builder = DocumentBuilder(scratch)
    texts = [(index, row) for index, row in enumerate(rows) if isinstance(row, Text | TextFile) and not is_blank(row)]
    if texts:  # then all rows are texts: a source has rows of one kind
        (opening,) = encode_prompts(tokenizer, PLAIN, [""], bos_token_id, eos_token_id)
        add_texts(builder, texts, tokenizer, opening=opening, eos_token_id=eos_token_id, limit=limit)
        return builder.documents()
    for first in range(0, len(rows), BATCH_ROWS):
        part = [(i, row) for i, row in enumerate(rows[first : first + BATCH_ROWS], first) if not is_blank(row)]
        conversations = [_turns(index, row, template, specials) for index, row in part]
        encoded = _encode_turns(conversations, template, tokenizer, bos_token_id, eos_token_id)
        for (index, _), turns in zip(part, encoded, strict=True):
            if token_count(turns) > limit:
                turns = truncate(turns, limit) if overlong == "truncate" else []
                builder.truncated += bool(turns)
            if turns:
                builder.add(index, [span for turn in turns for span in _spans(turn, eos_token_id, loss)])
    return builder.documents()


def _turns(index: int, row: AnyRow, template: PromptFormat, specials: Specials) -> list[Turn]:
    assert isinstance(row, Row | Chat)
    try:
        return template.turns(row, specials)
    except UnfitConversation as error:
        raise UnfitRow(index, str(error)) from None


def _encode_turns(
    conversations: list[list[Turn]],
    template: PromptFormat,
    tokenizer: "Tokenizer",
    bos_token_id: int | None,
    eos_token_id: int,
) -> list[list[TurnIds]]:
    """Token ids of every turn of every conversation, from a few calls to the tokenizer."""
    opening = [turns[0].prompt for turns in conversations]
    openings = encode_prompts(tokenizer, template, opening, bos_token_id, eos_token_id)
    prompts = iter(_encode(tokenizer, [turn.prompt for turns in conversations for turn in turns[1:]]))
    answers = iter(_encode(tokenizer, [turn.answer for turns in conversations for turn in turns]))
    return [
        [TurnIds(next(prompts) if number else opening, next(answers)) for number in range(len(turns))]
        for opening, turns in zip(openings, conversations, strict=True)
    ]


def _spans(turn: TurnIds, eos_token_id: int, loss: str) -> list[tuple[list[int], bool]]:
    """A turn's ids in DocumentBuilder.add's form: (ids, whether the loss counts them)."""
    return [(turn.prompt, loss == "all"), (turn.answer, True), ([eos_token_id], True)]
