"""Rows to token ids: one document a row, with the target of every position.

Prompt and answer are encoded apart. Encoded jointly, a token could reach over the boundary (a BPE merges a newline with
the space after it), so it would be neither prompt nor answer, and the prompt's ids would differ from the ones that
predict feeds in. Apart, the ids before the boundary are exactly `encode_prompts`, which predict uses too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.data.alpaca import Row
from dscoder_exp.data.templates import Template

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NOT_COUNTED = -100  # the label of a position that the loss leaves out
ROWS_AT_A_TIME = 2048  # an Encoding holds far more than its ids: bounds the memory


@dataclass(frozen=True)
class Documents:
    """Encoded rows, laid end to end.

    Attributes:
        ids: int32 [tokens].
        labels: int32 [tokens]; labels[t] is the token to predict at t, already shifted: ids[t + 1], or -100 where it
            doesn't count. The last position of a document never counts.
        lengths: int64 [documents].
        rows: int64 [documents], the index of the row that a document came from.
        truncated: how many were cut to the limit.
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    lengths: NDArray[np.int64]
    rows: NDArray[np.int64]
    truncated: int

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each document begins in `ids`: int64 [documents]."""
        return np.cumsum(self.lengths) - self.lengths


def encode_prompts(
    tokenizer: "Tokenizer", template: Template, prompts: Sequence[str], bos_token_id: int | None
) -> list[list[int]]:
    """The ids a model is given for rendered prompts, in training as in prediction."""
    encodings = tokenizer.encode_batch_fast(list(prompts), add_special_tokens=template.bos is None)
    first = [bos_token_id] if template.bos and bos_token_id is not None else []
    return [first + encoding.ids for encoding in encodings]


def encode_rows(
    rows: Sequence[Row],
    template: Template,
    tokenizer: "Tokenizer",
    *,
    bos_token_id: int | None,
    eos_token_id: int,
    limit: int,
    overlong: str,
    loss: str,
) -> Documents:
    """Encode rows as documents: prompt, answer, eos.

    Args:
        limit: the most tokens a document may have, at least 2.
        overlong: "drop" leaves a longer one out; "truncate" cuts its answer, never its eos. One whose prompt leaves no
            room for an answer is left out either way. So are rows without a request or an answer.
        loss: "response" counts the answer and its eos, "all" every token but the first.
    """
    tokenizer.no_truncation()  # a tokenizer.json may carry both, and either would change the rows in silence
    tokenizer.no_padding()
    pieces: list[list[int]] = []
    prompt_lengths: list[int] = []
    lengths: list[int] = []
    kept: list[int] = []
    truncated = 0
    for first in range(0, len(rows), ROWS_AT_A_TIME):
        part = [(i, row) for i, row in enumerate(rows[first : first + ROWS_AT_A_TIME], first) if not is_blank(row)]
        texts = [template.render_prompt(row.instruction, row.input) for _, row in part]
        prompts = encode_prompts(tokenizer, template, texts, bos_token_id)
        texts = [template.render_answer(row.output) for _, row in part]
        answers = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for (index, _), prompt, encoding in zip(part, prompts, answers, strict=True):
            answer, room = encoding.ids, limit - len(prompt) - 1
            if len(answer) > room:
                if overlong == "drop" or room < 1:
                    continue
                answer = answer[:room]
                truncated += 1
            pieces += prompt, answer, [eos_token_id]
            prompt_lengths.append(len(prompt))
            lengths.append(len(prompt) + len(answer) + 1)
            kept.append(index)
    ids = np.fromiter(chain.from_iterable(pieces), np.int32, count=sum(lengths))
    document_lengths = np.array(lengths, np.int64)
    uncounted = np.array(prompt_lengths, np.int64) if loss == "response" else np.zeros_like(document_lengths)
    labels = next_tokens(ids, document_lengths, uncounted)
    return Documents(ids, labels, document_lengths, np.array(kept, np.int64), truncated)


def is_blank(row: Row) -> bool:
    """Whether there is nothing to learn from a row: no request, or no answer (code_alpaca has a few of these)."""
    return not row.output.strip() or not (row.instruction.strip() or row.input.strip())


def next_tokens(ids: NDArray[np.int32], lengths: NDArray[np.int64], uncounted: NDArray[np.int64]) -> NDArray[np.int32]:
    """Targets of documents laid end to end; of each, the first `uncounted` tokens are no target. int32 [tokens]."""
    targets = np.roll(ids, -1)
    following = positions_within(lengths) + 1
    counts = (following >= np.repeat(uncounted, lengths)) & (following < np.repeat(lengths, lengths))
    return np.where(counts, targets, np.int32(NOT_COUNTED))


def positions_within(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2, … in each of the runs with these lengths, end to end: int64 [sum of lengths]."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum(), dtype=np.int64) - np.repeat(starts, lengths)
