"""Rows to token ids: documents, with the target of every position.

Prompt and answer are encoded apart. Encoded jointly, a token could reach over the boundary (a BPE merges a newline with
the space after it), so it would be neither prompt nor answer, and the prompt's ids would differ from the ones that
predict feeds in. Apart, the ids before the boundary are exactly `encode_prompts`, which predict uses too.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dscoder_exp.data.conversation import EOS_MARK, Specials, Turn, UnfitConversation, specials_of
from dscoder_exp.data.documents import Documents, Gathered
from dscoder_exp.data.encode_text import add_texts
from dscoder_exp.data.rows import AnyRow, Chat, Row, Text, is_blank
from dscoder_exp.data.templates import PLAIN, PromptFormat
from dscoder_exp.data.text_files import TextFile
from dscoder_exp.schema.errors import refuse

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Ids(NamedTuple):
    """One turn as token ids."""

    prompt: list[int]
    answer: list[int]


def total(turns: list[Ids]) -> int:
    """Tokens of the document that the turns make, each with its eos."""
    return sum(len(turn.prompt) + len(turn.answer) + 1 for turn in turns)


def truncated(turns: list[Ids], limit: int) -> list[Ids]:
    """The turns that fit, of the first that doesn't as much of its answer as fits; each answer keeps its eos.

    Returns:
        At most `limit` tokens; no turns where the first prompt leaves no room for an answer.
    """
    kept: list[Ids] = []
    for turn in turns:
        room = limit - total(kept) - len(turn.prompt) - 1
        if room < 1:
            break
        kept.append(Ids(turn.prompt, turn.answer[:room]))
        if len(turn.answer) > room:
            break
    return kept


ROWS_AT_A_TIME = 2048  # an Encoding holds far more than its ids: bounds the memory
BETWEEN_WORDS = re.compile(r".*[^\W\d_](?= [^\W\d_])", re.DOTALL)


class UnfitRow(ValueError):
    """The prompt format can't take a row."""

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
    """The ids a model is given for rendered prompts, in training as in prediction.

    Args:
        eos_token_id: for a format in a file, which may write it into a prompt.

    Raises:
        Refused: such a one does, and there is none.
    """
    if eos_token_id is None and any(EOS_MARK in prompt for prompt in prompts):
        raise refuse("model.eos_token_id", "the prompt format writes eos_token, and there is none", "give its id")
    specials = specials_of(tokenizer, bos_token_id, eos_token_id)
    texts = [specials.fill(prompt) for prompt in prompts]
    if template.bos is None:
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=True)]
    shared, rest = _shared_opening(tokenizer, texts)
    first = [bos_token_id, *shared] if template.bos and bos_token_id is not None else shared
    return [first + ids for ids in _encoded(tokenizer, rest)]


def _shared_opening(tokenizer: "Tokenizer", texts: list[str]) -> tuple[list[int], list[str]]:
    """The ids of what all texts begin with, and the rest of each.

    Two thirds of a prompt in DeepSeek's format are its system sentence, the same in every row. It is cut between two
    words, where tokenizers cut too; one that doesn't shows it at the first text or the last, and gets them whole.
    """
    low, high = (min(texts), max(texts)) if len(texts) > 2 else ("", "")
    common = next((at for at, (one, other) in enumerate(zip(low, high, strict=False)) if one != other), len(low))
    match = BETWEEN_WORDS.match(low, 0, common)
    if match is None:
        return [], texts
    rest = [text[match.end() :] for text in texts]
    (shared,) = _encoded(tokenizer, [match[0]])
    ends = _encoded(tokenizer, [rest[0], rest[-1]])
    same = _encoded(tokenizer, [texts[0], texts[-1]]) == [shared + ids for ids in ends]
    return (shared, rest) if same else ([], texts)


def _encoded(tokenizer: "Tokenizer", texts: Sequence[str]) -> list[list[int]]:
    """The ids of texts inside a document; on all cores, as the library sees to."""
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
    """Encode rows as documents: prompt, answer, eos, and so on for each turn; a text is all answer.

    Args:
        limit: the most tokens a document may have, at least 2.
        overlong: "drop" leaves a longer conversation out; "truncate" cuts its answer, never the eos after it. One
            whose first prompt leaves no room for an answer is left out either way. So are rows without a request or an
            answer. A longer text becomes several documents, whatever this says.
        loss: "response" counts the answers and the eos after each, "all" every token but a document's first.
        scratch: directory for what is held on the disk meanwhile.

    Raises:
        UnfitRow: the prompt format can't take a row.
    """
    tokenizer.no_truncation()  # a tokenizer.json may carry both, and either would change the rows in silence
    tokenizer.no_padding()
    specials = specials_of(tokenizer, bos_token_id, eos_token_id)
    found = Gathered(scratch)
    texts = [(index, row) for index, row in enumerate(rows) if isinstance(row, Text | TextFile) and not is_blank(row)]
    if texts:  # a source's rows are of one kind
        (opening,) = encode_prompts(tokenizer, PLAIN, [""], bos_token_id, eos_token_id)
        add_texts(found, texts, tokenizer, opening=opening, eos_token_id=eos_token_id, limit=limit)
        return found.documents()
    for first in range(0, len(rows), ROWS_AT_A_TIME):
        part = [(i, row) for i, row in enumerate(rows[first : first + ROWS_AT_A_TIME], first) if not is_blank(row)]
        conversations = [_turns(index, row, template, specials) for index, row in part]
        encoded = _encode_turns(conversations, template, tokenizer, bos_token_id, eos_token_id)
        for (index, _), turns in zip(part, encoded, strict=True):
            if total(turns) > limit:
                turns = truncated(turns, limit) if overlong == "truncate" else []
                found.truncated += bool(turns)
            if turns:
                pieces = [piece for turn in turns for piece in _pieces(turn, eos_token_id, loss)]
                found.add(index, pieces)
    return found.documents()


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
) -> list[list[Ids]]:
    """All turns of all conversations, in a few calls."""
    opening = [turns[0].prompt for turns in conversations]
    openings = encode_prompts(tokenizer, template, opening, bos_token_id, eos_token_id)
    prompts = iter(_encoded(tokenizer, [turn.prompt for turns in conversations for turn in turns[1:]]))
    answers = iter(_encoded(tokenizer, [turn.answer for turns in conversations for turn in turns]))
    return [
        [Ids(next(prompts) if number else opening, next(answers)) for number in range(len(turns))]
        for opening, turns in zip(openings, conversations, strict=True)
    ]


def _pieces(turn: Ids, eos_token_id: int, loss: str) -> list[tuple[list[int], bool]]:
    return [(turn.prompt, loss == "all"), (turn.answer, True), ([eos_token_id], True)]
