"""Encoding: the ids of a document, and what the loss counts."""

import json
from pathlib import Path

import numpy as np
import pytest
from data_support import EOS, SCRATCH, format_named
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from dscoder_exp.data.documents import Documents
from dscoder_exp.data.encode import encode_rows
from dscoder_exp.data.prompt_format import PromptFormat
from dscoder_exp.data.rows import Conversation, exchange
from dscoder_exp.schema.config import TEMPLATES
from dscoder_exp.schema.llama import IGNORE_INDEX


def encode(rows: list[Conversation], prompt_format: PromptFormat, **changes) -> Documents:
    options = {"limit": 10_000, "overlong": "drop", "loss": "response"}
    return encode_rows(rows, prompt_format, scratch=SCRATCH, **(options | changes))


def split(documents: Documents, flat: np.ndarray) -> list[np.ndarray]:
    return np.split(flat, np.cumsum(documents.lengths)[:-1])


@pytest.mark.parametrize("name", TEMPLATES)
def test_input_is_in_the_prompt(name: str, tokenizer: Tokenizer) -> None:
    prompt_format = format_named(name, tokenizer)
    assert "the input" in prompt_format.decode(prompt_format.prompt(exchange("Do it.", "the input", "").messages[:1]))


TEXT = st.text(max_size=30)


@given(
    rows=st.lists(st.builds(exchange, TEXT, TEXT, TEXT), min_size=1, max_size=5),
    name=st.sampled_from(TEMPLATES),
    loss=st.sampled_from(["response", "all"]),
)
def test_documents_hold_what_the_format_writes(
    rows: list[Conversation], name: str, loss: str, tokenizer: Tokenizer
) -> None:
    prompt_format = format_named(name, tokenizer)
    documents = encode(rows, prompt_format, loss=loss)
    kept = [
        row
        for row in rows
        if row.messages[1].content.strip() and (row.messages[0].content + row.messages[0].input).strip()
    ]
    assert [rows[index] for index in documents.rows] == kept
    if not kept:
        return
    for row, ids, labels in zip(kept, split(documents, documents.ids), split(documents, documents.labels), strict=True):
        text, ((first, end),), *_ = prompt_format.conversation(row)
        assert prompt_format.decode(ids.tolist()) == text
        assert labels[-1] == IGNORE_INDEX
        counted = np.flatnonzero(labels != IGNORE_INDEX)
        assert (labels[counted] == ids[counted + 1]).all()
        if loss == "all":
            assert counted.tolist() == list(range(len(ids) - 1))
            continue
        answer = prompt_format.decode(labels[counted].tolist())
        assert answer.endswith("<|end|>")
        assert text[first:end].endswith(answer) or answer.endswith(text[first:end])  # a token may reach over its start
        assert (ids[counted[0] : counted[-1] + 2][1:] == labels[counted]).all()


def test_overlong_documents(tokenizer: Tokenizer) -> None:
    prompt_format = format_named("deepseek_coder", tokenizer)
    rows = [exchange("Count.", "", "1"), exchange("Count.", "", "one two " * 20), exchange("Count. " * 99, "", "1")]
    free = encode(rows, prompt_format)
    limit = int(free.lengths[0]) + 5
    assert free.lengths[1] > limit < free.lengths[2]

    dropped = encode(rows, prompt_format, limit=limit)
    assert (dropped.rows.tolist(), dropped.truncated) == ([0], 0)

    cut = encode(rows, prompt_format, limit=limit, overlong="truncate")
    assert (cut.rows.tolist(), cut.truncated) == ([0, 1], 1)  # the third one's prompt alone is above the limit
    ids, labels = split(cut, cut.ids)[1], split(cut, cut.labels)[1]
    assert len(ids) == limit
    assert (ids[:-1] == split(free, free.ids)[1][: limit - 1]).all()
    assert (ids[-1], labels[-2]) == (EOS, EOS)

    exact = encode(rows[:1], prompt_format, limit=int(free.lengths[0]))
    assert (exact.rows.tolist(), exact.truncated) == ([0], 0)


def test_a_tokenizers_own_truncation_and_padding_are_off(tokenizer: Tokenizer, rows: list[Conversation]) -> None:
    other = Tokenizer.from_str(tokenizer.to_str())
    other.enable_truncation(8)
    other.enable_padding(length=500)
    expected = encode(rows, format_named("none", tokenizer))
    assert encode(rows, format_named("none", other)).ids.tolist() == expected.ids.tolist()


def test_deepseek_tokenizer(shared_data: Path) -> None:
    tokenizer = Tokenizer.from_file(str(shared_data / "tokenizers" / "deepseek-llm-7b" / "tokenizer.json"))
    prompt_format = format_named("deepseek_coder", tokenizer, bos=100000, eos=100001, pad=100001)
    path = shared_data / "code_alpaca" / "code_alpaca_2k.json"
    entries = json.loads(path.read_text(encoding="utf-8"))[:50]
    rows = [exchange(**entry) for entry in entries]
    documents = encode(rows, prompt_format)
    assert len(documents) == 50
    for row, ids, labels in zip(rows, split(documents, documents.ids), split(documents, documents.labels), strict=True):
        prompt = prompt_format.prompt(row.messages[:1])
        assert ids[: len(prompt)].tolist() == prompt
        assert (ids == 100000).sum() == (ids == 100001).sum() == 1
        assert (ids[0], ids[-1]) == (100000, 100001)
        answer = tokenizer.decode(labels[labels != IGNORE_INDEX].tolist())
        assert answer == row.messages[1].content + "\n"
        assert (labels != IGNORE_INDEX).sum() == len(ids) - len(prompt)
