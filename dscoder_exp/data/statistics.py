"""Computing the report on prepared data."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.data.cache import CacheKey
from dscoder_exp.data.documents import Documents
from dscoder_exp.data.ignored import ignored_by
from dscoder_exp.data.json_rows import Fault
from dscoder_exp.data.prompt_format import PromptFormat
from dscoder_exp.data.report import LOSS_MARKS, DataReport, Histogram
from dscoder_exp.data.rows import Conversation, is_blank
from dscoder_exp.data.source import Rows, Source
from dscoder_exp.schema.llama import IGNORE_INDEX

EXAMPLES = 5
MAX_CHARACTERS = 2000  # of a span of an example; a longer one is shown without its middle
BINS = 50


@dataclass(frozen=True)
class SequencePlan:
    """Encoded documents, and for each split the indices of the documents in each sequence.

    Attributes:
        unfit: rows that the prompt format can't render, left out: the row's index, and why.
    """

    documents: Documents
    unfit: dict[int, str]
    train: list[list[int]]
    held_out: list[list[int]]


def statistics_of(
    rows: Rows, plan: SequencePlan, cache_key: CacheKey, source: Source, prompt_format: PromptFormat
) -> DataReport:
    """Compute the report on prepared data.

    Args:
        rows: all rows that were read, dropped ones included.
    """
    documents = plan.documents
    bad = rows.faults | {rows.entry(index): Fault(why) for index, why in plan.unfit.items()}
    count = len(rows.rows) + len(rows.faults)
    held_out = np.zeros(len(documents), np.bool_)
    held_out[[document for group in plan.held_out for document in group]] = True
    positions = len(plan.train) * cache_key.seq_length
    unpacked = int((~held_out).sum()) * cache_key.seq_length
    lengths, counts = documents.lengths, documents.loss_tokens
    tokens, loss_tokens = int(lengths[~held_out].sum()), int(counts[~held_out].sum())
    kept = _row_count(documents.rows)
    return DataReport(
        kind=rows.kind.name,
        rows=count,
        kept=kept,
        dropped=count - kept,
        blank=sum(map(is_blank, rows.rows)),
        truncated=documents.truncated,
        split=documents.split,
        duplicates=len(rows.rows) - len(set(rows.rows)),
        skipped=source.skipped,
        bad_rows=dict(Counter(fault.reason for fault in bad.values()).most_common()),
        bad_examples=[f"{problem.where}: {problem.what}" for problem in source.problems(bad)],
        ignored=dict((rows.ignored + documents.ignored + _ignored(rows, cache_key.loss, prompt_format)).most_common()),
        prompt_format=prompt_format.name,
        prompt_format_origin=prompt_format.origin,
        special_texts=documents.spelt,
        train_rows=_row_count(documents.rows[~held_out]),
        eval_rows=_row_count(documents.rows[held_out]),
        documents=len(documents),
        longest=int(documents.lengths.max()),
        most_documents=max(map(len, [*plan.train, *plan.held_out])),
        seq_length=cache_key.seq_length,
        pad_token_id=cache_key.pad_token_id,
        sequences=len(plan.train),
        tokens=tokens,
        loss_tokens=loss_tokens,
        useful_fraction=tokens / positions,
        loss_fraction=loss_tokens / positions,
        unpacked_useful_fraction=tokens / unpacked,
        unpacked_loss_fraction=loss_tokens / unpacked,
        eval_sequences=len(plan.held_out),
        eval_tokens=int(lengths[held_out].sum()),
        eval_loss_tokens=int(counts[held_out].sum()),
        fingerprint=cache_key.fingerprint,
        lengths=_histogram(documents.lengths),
        examples=_examples(documents, prompt_format),
    )


def _ignored(rows: Rows, loss: str, prompt_format: PromptFormat) -> Counter[str]:
    """What the prompt format, or the loss, makes nothing of."""
    found = ignored_by(prompt_format, rows.rows)
    if loss == "all":
        conversations = (row for row in rows.rows if isinstance(row, Conversation))
        found["weight"] = sum(any(not message.learn for message in row.messages) for row in conversations)
    return +found


def _row_count(rows: NDArray[np.int64]) -> int:
    """Number of distinct rows, given each document's row: a text may have become several documents."""
    return len(np.unique(rows))


def _histogram(lengths: NDArray[np.int64]) -> Histogram:
    edges = np.unique(np.linspace(0, lengths.max() + 1, BINS + 1).astype(np.int64))
    counts, _ = np.histogram(lengths, edges)
    return {"edges": edges.tolist(), "documents": counts.tolist()}


def _examples(documents: Documents, prompt_format: PromptFormat) -> list[str]:
    """EXAMPLES documents as text, evenly spaced from the first to the last."""
    chosen = np.unique(np.linspace(0, len(documents) - 1, EXAMPLES).astype(np.int64))
    starts, ends = documents.starts[chosen].tolist(), np.cumsum(documents.lengths)[chosen].tolist()
    return [_example(documents, start, end, prompt_format) for start, end in zip(starts, ends, strict=True)]


def _example(documents: Documents, start: int, end: int, prompt_format: PromptFormat) -> str:
    ids = documents.ids[start:end]
    in_loss = np.zeros(len(ids), np.bool_)
    in_loss[1:] = documents.labels[start : end - 1] != IGNORE_INDEX
    shown = ""
    for span in np.split(np.arange(len(ids)), np.flatnonzero(np.diff(in_loss)) + 1):
        text = prompt_format.decode(ids[span].tolist())
        if len(text) > MAX_CHARACTERS:
            text = f"{text[: MAX_CHARACTERS // 2]} […] {text[-MAX_CHARACTERS // 2 :]}"
        shown += f"{LOSS_MARKS[0]}{text}{LOSS_MARKS[1]}" if in_loss[span[0]] else text
    return shown
