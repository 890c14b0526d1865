"""Templates and encoding: the text a model sees, its ids, and what the loss counts."""

import json
from pathlib import Path

import numpy as np
import pytest
from data_support import BOS, EOS, SCRATCH
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from dscoder_exp.data.conversation import Specials
from dscoder_exp.data.documents import Documents
from dscoder_exp.data.encode import encode_prompts, encode_rows
from dscoder_exp.data.rows import Row
from dscoder_exp.data.templates import PLAIN, TEMPLATES, PromptFormat, template_named
from dscoder_exp.schema.llama import IGNORE_INDEX

ALL = [*TEMPLATES.values(), PLAIN]


def encode(rows: list[Row], template: PromptFormat, tokenizer: Tokenizer, **changes) -> Documents:
    options = {"bos_token_id": BOS, "eos_token_id": EOS, "limit": 10_000, "overlong": "drop", "loss": "response"}
    return encode_rows(rows, template, tokenizer, scratch=SCRATCH, **(options | changes))


def split(documents: Documents, flat: np.ndarray) -> list[np.ndarray]:
    return np.split(flat, np.cumsum(documents.lengths)[:-1])


def test_prompts_are_the_models_own() -> None:
    assert TEMPLATES["deepseek_coder"].render_prompt("Sort {x}.", "x = [2, 1]") == (
        "You are an AI programming assistant, utilizing the DeepSeek Coder model, developed by DeepSeek Company, and "
        "you only answer questions related to computer science. For politically sensitive questions, security and "
        "privacy issues, and other non-computer science questions, you will refuse to answer.\n"
        "### Instruction:\nSort {x}.\nx = [2, 1]\n### Response:\n"
    )
    assert TEMPLATES["chatml"].render_prompt("Sort.", " ") == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nSort.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert template_named(None).render_prompt("def f():\n") == "def f():\n"


@pytest.mark.parametrize("template", ALL)
def test_input_is_in_the_prompt(template: PromptFormat) -> None:
    assert "the input" in template.render_prompt("Do it.", "the input")


TEXT = st.text(max_size=30)


@given(
    rows=st.lists(st.builds(Row, TEXT, TEXT, TEXT), min_size=1, max_size=5),
    template=st.sampled_from(ALL),
    loss=st.sampled_from(["response", "all"]),
)
def test_documents_hold_prompt_answer_and_eos(
    rows: list[Row], template: PromptFormat, loss: str, tokenizer: Tokenizer
) -> None:
    documents = encode(rows, template, tokenizer, loss=loss)
    kept = [row for row in rows if row.output.strip() and (row.instruction + row.input).strip()]
    assert [rows[index] for index in documents.rows] == kept
    if not kept:
        return
    for row, ids, labels in zip(kept, split(documents, documents.ids), split(documents, documents.labels), strict=True):
        text = template.render_prompt(row.instruction, row.input)
        (prompt,) = encode_prompts(tokenizer, template, [text], BOS)
        assert ids[: len(prompt)].tolist() == prompt
        assert (prompt[:1] == [BOS]) == bool(template.bos)
        answer = ids[len(prompt) :]
        assert answer[-1] == EOS
        assert tokenizer.decode(answer[:-1].tolist()) == template.turns(row, Specials("", ""))[0].answer
        assert labels[-1] == IGNORE_INDEX
        counted = np.flatnonzero(labels != IGNORE_INDEX)
        assert (labels[counted] == ids[counted + 1]).all()
        assert counted.tolist() == list(range(len(prompt) - 1 if loss == "response" else 0, len(ids) - 1)) or not prompt


def test_overlong_documents(tokenizer: Tokenizer) -> None:
    template = TEMPLATES["deepseek_coder"]
    rows = [Row("Count.", "", "1"), Row("Count.", "", "one two " * 20), Row("Count. " * 99, "", "1")]
    free = encode(rows, template, tokenizer)
    limit = int(free.lengths[0]) + 5
    assert free.lengths[1] > limit < free.lengths[2]

    dropped = encode(rows, template, tokenizer, limit=limit)
    assert (dropped.rows.tolist(), dropped.truncated) == ([0], 0)

    cut = encode(rows, template, tokenizer, limit=limit, overlong="truncate")
    assert (cut.rows.tolist(), cut.truncated) == ([0, 1], 1)  # the third one's prompt alone is above the limit
    ids, labels = split(cut, cut.ids)[1], split(cut, cut.labels)[1]
    assert len(ids) == limit
    assert (ids[:-1] == split(free, free.ids)[1][: limit - 1]).all()
    assert (ids[-1], labels[-2]) == (EOS, EOS)

    exact = encode(rows[:1], template, tokenizer, limit=int(free.lengths[0]))
    assert (exact.rows.tolist(), exact.truncated) == ([0], 0)


def test_a_tokenizers_own_truncation_and_padding_are_off(tokenizer: Tokenizer, rows: list[Row]) -> None:
    other = Tokenizer.from_str(tokenizer.to_str())
    other.enable_truncation(8)
    other.enable_padding(length=500)
    expected = encode(rows, PLAIN, tokenizer)
    assert encode(rows, PLAIN, other).ids.tolist() == expected.ids.tolist()


def test_deepseek_tokenizer(shared_data: Path) -> None:
    tokenizer = Tokenizer.from_file(str(shared_data / "tokenizers" / "deepseek-llm-7b" / "tokenizer.json"))
    template = TEMPLATES["deepseek_coder"]
    path = shared_data / "code_alpaca" / "code_alpaca_2k.json"
    rows = [Row(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))[:50]]
    documents = encode(rows, template, tokenizer, bos_token_id=100000, eos_token_id=100001)
    assert len(documents) == 50
    for row, ids, labels in zip(rows, split(documents, documents.ids), split(documents, documents.labels), strict=True):
        # As the tokenizer itself encodes the prompt, bos included: what Hugging Face would feed in.
        prompt = tokenizer.encode(template.render_prompt(row.instruction, row.input)).ids
        assert ids[: len(prompt)].tolist() == prompt
        assert (ids == 100000).sum() == (ids == 100001).sum() == 1
        assert (ids[0], ids[-1]) == (100000, 100001)
        assert tokenizer.decode(labels[labels != IGNORE_INDEX].tolist()) == row.output + "\n"
        assert (labels != IGNORE_INDEX).sum() == len(ids) - len(prompt)
