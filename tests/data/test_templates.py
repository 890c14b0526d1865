"""Prompt formats: what they write, and that predict's prompt is the beginning of what is trained on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_support import BOS, EOS, SCRATCH
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from dscoder_exp.data.conversation import Specials, Turn
from dscoder_exp.data.encode import encode_prompts, encode_rows
from dscoder_exp.data.jinja_template import JinjaTemplate
from dscoder_exp.data.rows import Chat, Message, Row
from dscoder_exp.data.templates import PLAIN, TEMPLATES, PromptFormat
from dscoder_exp.schema.llama import IGNORE_INDEX

# After what Hugging Face's repositories hold: the end of a message as the eos, as a text of its own, and not at all.
ZEPHYR = """{{ bos_token }}{% for message in messages %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""
STRIPPING = """{% for message in messages %}
{% if message['role'] == 'assistant' %}{{ 'A: ' + message['content'] | trim + '<|END|>\\n' }}
{%- else %}{{ 'Q: ' + message['content'] + '\\n' }}{% endif %}
{% endfor %}{% if add_generation_prompt %}A: {% endif %}"""
FILES = [JinjaTemplate("zephyr.jinja", ZEPHYR), JinjaTemplate("stripping.jinja", STRIPPING)]
ALL: list[PromptFormat] = [*TEMPLATES.values(), PLAIN, *FILES]
IDS = [template.identity.split()[0] for template in ALL]
WORDS = st.text("ab \n'é<{}", min_size=1, max_size=8).filter(str.strip)
CHATS = st.builds(
    lambda system, spoken: Chat(
        tuple(Message("system", text) for text in system)
        + tuple(Message(role, text) for pair in spoken for role, text in zip(("user", "assistant"), pair, strict=True))
    ),
    st.lists(WORDS, max_size=1),
    st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4),
)
SPECIALS = Specials("<|begin|>", "<|end|>")

OPTIONS: Any = {
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "limit": 9999,
    "overlong": "drop",
    "loss": "response",
    "scratch": SCRATCH,
}


def test_alpacas_prompt_is_stanfords() -> None:
    alpaca = TEMPLATES["alpaca"]
    assert alpaca.render_prompt("Sort {x}.", "x = [2, 1]") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSort {x}.\n\n### Input:\nx = [2, 1]\n\n### Response:"
    )
    assert alpaca.render_prompt("Sort.", "\n") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSort.\n\n### Response:"
    )


CHAT = Chat((Message("system", "Be brief."), *map(Message, ("user", "assistant") * 2, ("a?", "b", "c?", "d"))))


@pytest.mark.parametrize(
    ("template", "turns"),
    [
        (
            TEMPLATES["deepseek_coder"],
            [
                Turn("Be brief.\n### Instruction:\na?\n### Response:\n", "b\n"),
                Turn("\n### Instruction:\nc?\n### Response:\n", "d\n"),
            ],
        ),
        (
            TEMPLATES["chatml"],
            [
                Turn(
                    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na?<|im_end|>\n<|im_start|>assistant\n",
                    "b",
                ),
                Turn("\n<|im_start|>user\nc?<|im_end|>\n<|im_start|>assistant\n", "d"),
            ],
        ),
        (
            TEMPLATES["alpaca"],
            [
                Turn("Be brief.\n\n### Instruction:\na?\n\n### Response:", "b"),
                Turn("\n\n### Instruction:\nc?\n\n### Response:", "d"),
            ],
        ),
        (PLAIN, [Turn("Be brief.\na?", "\nb"), Turn("c?", "\nd")]),
        (
            FILES[0],
            [
                Turn("<|begin|><|system|>\nBe brief.<|end|>\n<|user|>\na?<|end|>\n<|assistant|>\n", "b"),
                Turn("\n<|user|>\nc?<|end|>\n<|assistant|>\n", "d"),
            ],
        ),
        (FILES[1], [Turn("Q: Be brief.\nQ: a?\nA: ", "b<|END|>\n"), Turn("Q: c?\nA: ", "d<|END|>\n")]),
    ],
    ids=lambda value: "" if isinstance(value, list) else value.identity.split()[0],
)
def test_a_conversation_in_each_format(template: PromptFormat, turns: list[Turn]) -> None:
    assert template.turns(CHAT, SPECIALS) == turns


@pytest.mark.parametrize("template", ALL, ids=IDS)
@given(rows=st.lists(st.builds(Row, WORDS, st.just("") | WORDS, WORDS), min_size=1, max_size=5))
def test_the_prompt_of_predict_begins_the_training_document(
    template: PromptFormat, rows: list[Row], tokenizer: Tokenizer
) -> None:
    documents = encode_rows(rows, template, tokenizer, **OPTIONS)
    starts, ends = documents.starts, np.cumsum(documents.lengths)
    for row, start, end in zip(rows, starts, ends, strict=True):
        text = template.render_prompt(row.instruction, row.input)
        (prompt,) = encode_prompts(tokenizer, template, [text], BOS, EOS)  # one alone, as predict does
        assert documents.ids[start : start + len(prompt)].tolist() == prompt
        assert (documents.labels[start : start + max(0, len(prompt) - 1)] == IGNORE_INDEX).all()
        assert (documents.labels[start + len(prompt) : end - 1] != IGNORE_INDEX).all()


def counted_stretches(ids: np.ndarray, labels: np.ndarray) -> Iterator[list[int]]:
    """What the loss counts, each stretch by itself."""
    counted = np.concatenate([[False], labels[:-1] != IGNORE_INDEX])
    for stretch in np.split(np.arange(len(ids)), np.flatnonzero(np.diff(counted)) + 1):
        if counted[stretch[0]]:
            yield ids[stretch].tolist()


@pytest.mark.parametrize("template", ALL, ids=IDS)
@given(chat=CHATS)
def test_only_the_assistants_turns_count_and_each_ends(
    template: PromptFormat, chat: Chat, tokenizer: Tokenizer
) -> None:
    documents = encode_rows([chat], template, tokenizer, **OPTIONS)
    found = list(counted_stretches(documents.ids, documents.labels))
    said = [message.content for message in chat.messages if message.role == "assistant"]
    turns = template.turns(chat, SPECIALS)
    assert [tokenizer.decode(stretch[:-1]) for stretch in found] == [turn.answer for turn in turns]
    assert all(stretch[-1] == EOS for stretch in found)
    assert all(text.strip() in turn.answer for text, turn in zip(said, turns, strict=True))
    whole = "".join(turn.prompt + turn.answer + SPECIALS.eos for turn in turns)
    decoded = tokenizer.decode(documents.ids.tolist(), skip_special_tokens=False)
    assert decoded == ("<|begin|>" if template.bos else "") + whole


def test_a_shared_opening_changes_no_ids(shared_data: Path) -> None:
    """Prompts encoded together, their system sentence once, are those encoded one by one."""
    tokenizer = Tokenizer.from_file(str(shared_data / "tokenizers" / "deepseek-llm-7b" / "tokenizer.json"))
    requests = [f"{start} {number} {end}" for number in range(40) for start in "\nA1" for end in (" \n", "é", "!?")]
    for template in ALL:
        prompts = [template.render_prompt(request) for request in requests]
        together = encode_prompts(tokenizer, template, prompts, 100000, 100001)
        assert together == [encode_prompts(tokenizer, template, [one], 100000, 100001)[0] for one in prompts]


# The chat_template of SmolLM2-135M-Instruct, as its GGUF file carries it.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@given(CHATS)
def test_our_chatml_is_what_smollm2s_own_template_writes(chat: Chat) -> None:
    theirs = JinjaTemplate("smollm2.jinja", SMOLLM2)
    specials = Specials("<|im_start|>", "<|im_end|>")
    assert TEMPLATES["chatml"].turns(chat, specials) == theirs.turns(chat, specials)
    assert TEMPLATES["chatml"].render_prompt("a", "b") == theirs.render_prompt("a", "b")
