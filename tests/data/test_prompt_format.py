"""Prompt formats: what they write, what the loss counts of it, and that predict's prompt begins what is trained on."""

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_support import EOS, PAD, SCRATCH, format_named, own_format, text_setup
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from weights_support import refusal

from dscoder_exp.data.answers import LEFT_OUT, NOT_LEARNT
from dscoder_exp.data.chat_template import TemplateFailed
from dscoder_exp.data.encode import encode_rows
from dscoder_exp.data.prompt_format import PromptFormat, choose_format
from dscoder_exp.data.rows import Conversation, Message, exchange
from dscoder_exp.schema.config import TEMPLATES, ModelConfig, TokenizerConfig
from dscoder_exp.schema.llama import IGNORE_INDEX
from dscoder_exp.weights.resolve import open_text

REFERENCE = Path(__file__).parents[1] / "reference"
EMPTY: Any = {item.name: None for item in fields(ModelConfig)} | {"init": "random"}

# After what Hugging Face's repositories hold: the end of a message as the eos, as a text of its own, not at all; and
# the assistant's words marked.
ZEPHYR = """{{ bos_token }}{% for message in messages %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""
STRIPPING = """{% for message in messages %}
{% if message['role'] == 'assistant' %}{{ 'A: ' + message['content'] | trim + '<|END|>\\n' }}
{%- else %}{{ 'Q: ' + message['content'] + '\\n' }}{% endif %}
{% endfor %}{% if add_generation_prompt %}A: {% endif %}"""
MARKING = """{% for m in messages %}{% if m.role == 'assistant' %}
A: {% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ 'Q: ' + m.content }}{% endif %}
{% endfor %}"""
OWN = {"zephyr": ZEPHYR, "stripping": STRIPPING}
ALL = [*TEMPLATES, *OWN]
WORDS = st.text("ab \n'é<{}", min_size=1, max_size=8).filter(str.strip)
CHATS = st.builds(
    lambda system, spoken: Conversation(
        tuple(Message("system", text) for text in system)
        + tuple(Message(role, text) for pair in spoken for role, text in zip(("user", "assistant"), pair, strict=True))
    ),
    st.lists(WORDS, max_size=1),
    st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4),
)
CHAT = Conversation((Message("system", "Be brief."), *map(Message, ("user", "assistant") * 2, ("a?", "b", "c?", "d"))))
OPTIONS: Any = {"limit": 9999, "overlong": "drop", "loss": "response", "scratch": SCRATCH}


def a_format(name: str, tokenizer: Tokenizer) -> PromptFormat:
    return own_format(OWN[name], tokenizer) if name in OWN else format_named(name, tokenizer)


def marked(conversation: Conversation, prompt_format: PromptFormat) -> str:
    """The text, what the loss counts of it between brackets."""
    text, answers, *_ = prompt_format.conversation(conversation)
    for first, end in reversed(answers):
        text = f"{text[:first]}⟦{text[first:end]}⟧{text[end:]}"
    return text


@pytest.mark.parametrize(
    ("source", "end"),
    [
        (ZEPHYR, EOS),
        (STRIPPING, None),  # <|END|> is no token of the tokenizer
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None),
        (
            "{% for m in messages %}{{ '<|pad|>' + m.content }}{% endfor %}{{ '<|pad|>' if add_generation_prompt }}",
            None,
        ),
        (
            "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '\\n<|pad|>\\n' }}{% endfor %}"
            "{{ '<assistant>' if add_generation_prompt else eos_token }}",  # as Phi-3's
            PAD,
        ),
    ],
)
def test_the_token_that_a_format_writes_after_an_answer_ends_it(
    source: str, end: int | None, tokenizer: Tokenizer
) -> None:
    """Beside those that the model's files list."""
    prompt_format = own_format(source, tokenizer)
    assert prompt_format.end_token_id == end
    assert prompt_format.stop_token_ids == (() if end is None else (end,))
    listed = replace(text_setup(tokenizer, source=source), stop_token_ids=(43, EOS))
    stops = choose_format(listed, None, "data.template").stop_token_ids
    assert stops == (43, EOS, *([PAD] if end == PAD else []))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "deepseek_coder",
            "<|begin|>Be brief.\n### Instruction:\na?\n### Response:\n⟦b\n<|end|>⟧"
            "\n### Instruction:\nc?\n### Response:\n⟦d\n<|end|>⟧",
        ),
        (
            "deepseek_coder_instruct",
            "<|begin|>Be brief.### Instruction:\na?\n### Response:\n⟦b\n<|end|>⟧\n"
            "### Instruction:\nc?\n### Response:\n⟦d\n<|end|>⟧\n",
        ),
        (
            "chatml",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na?<|im_end|>\n<|im_start|>assistant\n"
            "⟦b<|end|>⟧\n<|im_start|>user\nc?<|im_end|>\n<|im_start|>assistant\n⟦d<|end|>⟧\n",
        ),
        (
            "alpaca",
            "Be brief.\n\n### Instruction:\na?\n\n### Response:⟦b<|end|>⟧"
            "\n\n### Instruction:\nc?\n\n### Response:⟦d<|end|>⟧",
        ),
        ("none", "Be brief.\na?⟦\nb<|end|>⟧c?⟦\nd<|end|>⟧"),
        (
            "zephyr",
            "<|begin|><|system|>\nBe brief.<|end|>\n<|user|>\na?<|end|>\n<|assistant|>\n⟦b<|end|>⟧\n"
            "<|user|>\nc?<|end|>\n<|assistant|>\n⟦d<|end|>⟧\n",
        ),
        ("stripping", "Q: Be brief.\nQ: a?\nA: ⟦b<|END|>\n⟧Q: c?\nA: ⟦d<|END|>\n⟧"),
    ],
)
def test_a_conversation_in_each_format(name: str, text: str, tokenizer: Tokenizer) -> None:
    assert marked(CHAT, a_format(name, tokenizer)) == text


def test_a_template_may_mark_the_answers_itself(tokenizer: Tokenizer) -> None:
    assert marked(CHAT, own_format(MARKING, tokenizer)) == "Q: Be brief.Q: a?A: ⟦b<|end|>⟧Q: c?A: ⟦d<|end|>⟧"


def test_a_template_with_a_token_before_the_answer_and_none_behind(tokenizer: Tokenizer) -> None:
    begins = "{% for m in messages %}{{ ('<|begin|>' if m.role == 'assistant' else 'Q:') + m.content }}{% endfor %}"
    assert marked(CHAT, own_format(begins, tokenizer)) == "Q:Be brief.Q:a?⟦<|begin|>b⟧Q:c?⟦<|begin|>d⟧"


# As Phi-3's, which closes the last message alone; as Llama-3's first, which always writes the next prompt.
CLOSING = """{% for m in messages %}{{ '<' + m.role + '>' + m.content + '<|pad|>\\n' }}{% endfor %}
{{ '<assistant>' if add_generation_prompt else eos_token }}"""
PROMPTING = """{% for m in messages %}{{ '<|begin|>' + m.role + ':' + m.content + '<|pad|>' }}{% endfor %}
{{ '<|begin|>assistant:' }}"""


@pytest.mark.parametrize(
    ("source", "stops", "text"),
    [
        (CLOSING, (), "<user>a?<|pad|>\n<assistant>⟦b<|pad|>⟧\n<user>c?<|pad|>\n<assistant>⟦d<|pad|>\n<|end|>⟧"),
        (CLOSING, (PAD,), "<user>a?<|pad|>\n<assistant>⟦b<|pad|>⟧\n<user>c?<|pad|>\n<assistant>⟦d<|pad|>⟧\n<|end|>"),
        (
            PROMPTING,
            (),
            "<|begin|>user:a?<|pad|><|begin|>assistant:⟦b<|pad|>⟧"
            "<|begin|>user:c?<|pad|><|begin|>assistant:⟦d<|pad|>⟧<|begin|>assistant:",
        ),
    ],
)
def test_what_a_template_writes_after_the_last_message_belongs_to_no_answer(
    source: str, stops: tuple[int, ...], text: str, tokenizer: Tokenizer
) -> None:
    """And the answers before it are counted all the same."""
    setup = replace(text_setup(tokenizer, source=source), stop_token_ids=stops)
    found = marked(Conversation(CHAT.messages[1:]), choose_format(setup, None, "data.template"))
    assert found.removeprefix("\n") == text


def test_an_answer_that_is_not_to_be_learnt(tokenizer: Tokenizer) -> None:
    _, asked, bad, *rest = CHAT.messages
    chat = Conversation((asked, Message("assistant", bad.content, learn=False), *rest))
    for prompt_format in (own_format(MARKING, tokenizer), a_format("none", tokenizer)):
        assert marked(chat, prompt_format).count("⟦") == 1
        assert "b" not in marked(chat, prompt_format).partition("⟦")[2]


THINKING = """{% for m in messages %}{% if m.role == 'assistant' %}{% set last = loop.last %}A:
{{- (m.content if last else m.content.split('</think>')[-1]) + eos_token }}{% else %}{{ 'Q:' + m.content }}{% endif %}
{% endfor %}{% if add_generation_prompt %}{{ 'A:<think>' }}{% endif %}"""


def test_a_template_that_drops_earlier_thoughts(tokenizer: Tokenizer) -> None:
    """What the model is given later isn't what it had written: that answer isn't counted; the last one is, from where
    it differs from its prompt."""
    messages = [Message("user", "a"), Message("assistant", "<think>b</think>c"), Message("user", "d")]
    chat = Conversation((*messages, Message("assistant", "<think>e</think>f")))
    prompt_format = own_format(THINKING, tokenizer)
    assert marked(chat, prompt_format) == "Q:aA:c<|end|>Q:dA:<think>⟦e</think>f<|end|>⟧"
    assert prompt_format.conversation(chat).ignored == {NOT_LEARNT}
    dropping = own_format(THINKING.replace("if last", "if false"), tokenizer)  # DeepSeek-R1's drops the last one too
    assert dropping.conversation(chat).ignored == {LEFT_OUT}
    plain = Conversation((Message("user", "a"), Message("assistant", "b")))
    assert marked(plain, own_format(THINKING, tokenizer)) == "Q:aA:⟦b<|end|>⟧"


def test_a_template_that_takes_back_what_it_wrote(tokenizer: Tokenizer) -> None:
    counting = "{{ messages | length }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    with pytest.raises(Exception, match="isn't what a text with that message begins with"):
        own_format(counting, tokenizer)
    roles = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    prompt_format = own_format(roles + "{{ m.content }}{{ eos_token }}{% endfor %}", tokenizer)
    with pytest.raises(TemplateFailed, match="no tools"):
        prompt_format.conversation(Conversation((Message("tool", "x"), *CHAT.messages)))


def test_alpacas_prompt_is_stanfords(tokenizer: Tokenizer) -> None:
    alpaca = format_named("alpaca", tokenizer)
    assert marked(exchange("Sort {x}.", "x = [2, 1]", "[1, 2]"), alpaca) == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSort {x}.\n\n### Input:\nx = [2, 1]\n\n### Response:⟦[1, 2]<|end|>⟧"
    )
    assert marked(exchange("Sort.", "\n", "x"), alpaca) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSort.\n\n### Response:⟦x<|end|>⟧"
    )


SENTENCE = (
    "You are an AI programming assistant, utilizing the {name} Coder model, developed by {name} Company, and you only "
    "answer questions related to computer science. For politically sensitive questions, security and privacy issues, "
    "and other non-computer science questions, you will refuse to answer"
)


def test_deepseeks_two_formats(tokenizer: Tokenizer) -> None:
    """The fine-tuning script's, and the released instruct models'."""
    row = exchange("Sort {x}.", "x = [2, 1]", "y")
    assert marked(row, format_named("deepseek_coder", tokenizer)) == (
        f"<|begin|>{SENTENCE.format(name='DeepSeek')}.\n"
        "### Instruction:\nSort {x}.\nx = [2, 1]\n### Response:\n⟦y\n<|end|>⟧"
    )
    assert marked(row, format_named("deepseek_coder_instruct", tokenizer)) == (
        f"<|begin|>{SENTENCE.format(name='Deepseek')}\n"
        "### Instruction:\nSort {x}.\nx = [2, 1]\n### Response:\n⟦y\n<|end|>⟧\n"
    )


@pytest.mark.parametrize("name", ALL)
@given(rows=st.lists(st.builds(exchange, WORDS, st.just("") | WORDS, WORDS), min_size=1, max_size=5))
def test_the_prompt_of_predict_begins_the_training_document(
    name: str, rows: list[Conversation], tokenizer: Tokenizer
) -> None:
    """Up to a token that reaches over its end: the text that it spells begins the document's."""
    prompt_format = a_format(name, tokenizer)
    documents = encode_rows(rows, prompt_format, **OPTIONS)
    starts, ends = documents.starts, np.cumsum(documents.lengths)
    for row, start, end in zip(rows, starts, ends, strict=True):
        prompt = prompt_format.prompt(row.messages[:1])
        document = documents.ids[start:end]
        assert prompt_format.decode(document.tolist()).startswith(prompt_format.decode(prompt))
        counted = np.flatnonzero(documents.labels[start:end] != IGNORE_INDEX)
        assert len(prompt) - 2 <= counted[0] <= len(prompt) - 1
        assert (np.diff(counted) == 1).all()


def counted_spans(ids: np.ndarray, labels: np.ndarray) -> Iterator[list[int]]:
    """What the loss counts, each span by itself."""
    counted = np.concatenate([[False], labels[:-1] != IGNORE_INDEX])
    for span in np.split(np.arange(len(ids)), np.flatnonzero(np.diff(counted)) + 1):
        if counted[span[0]]:
            yield ids[span].tolist()


@pytest.mark.parametrize("name", ["deepseek_coder", "deepseek_coder_instruct", "chatml", "alpaca", "none", "zephyr"])
@given(chat=CHATS)
def test_only_the_assistants_turns_count_and_each_ends(name: str, chat: Conversation, tokenizer: Tokenizer) -> None:
    prompt_format = a_format(name, tokenizer)
    documents = encode_rows([chat], prompt_format, **OPTIONS)
    found = list(counted_spans(documents.ids, documents.labels))
    said = [message.content for message in chat.messages if message.role == "assistant"]
    assert all(span[-1] == EOS for span in found)
    assert len(found) == len(said)
    for text, span in zip(said, found, strict=True):
        assert text in tokenizer.decode(span)
    assert prompt_format.decode(documents.ids.tolist()) == prompt_format.conversation(chat).text


@pytest.mark.parametrize("name", ["byte_level", "sentencepiece", "word_piece"])
def test_ids_are_those_of_transformers(name: str) -> None:
    """Of a byte-level, a sentencepiece-like and a WordPiece-like tokenizer (tests/reference/make_chat_template_ids.py).

    Each has a post-processor that adds tokens; one template marks the answers, as transformers' assistant mask does.
    """
    directory = REFERENCE / "chat_templates" / name
    text = open_text(ModelConfig(**EMPTY), TokenizerConfig(str(directory)))
    prompt_format = choose_format(text, None, "data.template")
    for row in json.loads((directory / "reference.json").read_text(encoding="utf-8")):
        chat = Conversation(tuple(Message(**message) for message in row["messages"]))
        assert prompt_format.prompt(chat.messages[:1]) == row["prompt"]
        documents = encode_rows([chat], prompt_format, **OPTIONS)
        assert documents.ids.tolist() == row["ids"]
        counted = [0, *(documents.labels[:-1] != IGNORE_INDEX).astype(int).tolist()]
        if "assistant_masks" in row:
            assert counted == row["assistant_masks"]
        spans = [prompt_format.decode(span) for span in counted_spans(documents.ids, documents.labels)]
        assert len(spans) == len(chat.messages) // 2
        assert all(span.rstrip().endswith(text.special_tokens["eos_token"]) for span in spans)


# The chat_template of SmolLM2-135M-Instruct, as its GGUF file carries it.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@given(CHATS)
def test_our_chatml_is_what_smollm2s_own_template_writes(chat: Conversation) -> None:
    vocab = {"<|im_start|>": 0, "<|im_end|>": 1, "?": 2}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    ours, theirs = format_named("chatml", tokenizer), own_format(SMOLLM2, tokenizer)
    assert ours.conversation(chat) == theirs.conversation(chat)


# --- special tokens -------------------------------------------------------------------------------------------------


def spell(tokens: list[str]) -> list[str]:
    return [token.replace("\u2581", " ").replace("Ġ", " ").replace("Ċ", "\n") for token in tokens]


def like_llama() -> Tokenizer:
    """Spaces are ▁, one is prepended, special tokens are pieces of the vocabulary, and it adds bos and eos."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    pieces += [(piece, -len(pieces) - index) for index, piece in enumerate(["\u2581", *"abcdefgh<>/s.:\n"])]
    built = Tokenizer(models.Unigram(pieces, unk_id=0))
    built.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    built.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    built.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 1), ("</s>", 2)])
    return built


def like_bert() -> Tokenizer:
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{letter: 3 + n for n, letter in enumerate("abcdefgh<>/s.:")}}
    vocab |= {f"##{letter}": len(vocab) + n for n, letter in enumerate("abcdefghs")}
    built = Tokenizer(models.WordPiece(vocab, unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    built.add_special_tokens(["<unk>", "<s>", "</s>"])
    return built


PLAIN = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"


@pytest.mark.parametrize("make", [like_llama, like_bert])
def test_a_special_tokens_name_in_a_row_is_text(make: Any) -> None:
    tokenizer = make()
    text = text_setup(tokenizer, bos=1, eos=2, pad=0, source=PLAIN)
    row = exchange("a </s> b", "", "c<s></s>")
    as_text = choose_format(text, None, "data.template")
    allowed = choose_format(text, None, "data.template", allow_special_tokens=True)
    (ids,) = (encoding.ids for encoding in as_text.encode([as_text.conversation(row)]))
    assert [(ids.count(1), ids.count(2), ids[0], ids[-1])] == [(1, 2, 1, 2)]
    (other,) = (encoding.ids for encoding in allowed.encode([allowed.conversation(row)]))
    assert (other.count(1), other.count(2)) == (2, 4)
    assert as_text.decode(ids).replace(" ", "").count("</s>") == 4
    prompt = as_text.prompt(row.messages[:1])
    assert ids[: len(prompt)] == prompt
    documents = encode_rows([row, exchange("a", "", "b")], as_text, **OPTIONS)
    assert documents.spelt == 1
    spans = list(counted_spans(documents.ids[: documents.lengths[0]], documents.labels[: documents.lengths[0]]))
    assert [as_text.decode(span).replace(" ", "").replace("\u2581", "") for span in spans] == ["c<s></s></s>"]


@pytest.mark.parametrize("make", [like_llama, like_bert])
@given(words=st.lists(st.text("abc. \n", min_size=1, max_size=6).filter(str.strip), min_size=2, max_size=2))
def test_the_copy_for_spelt_tokens_encodes_all_else_alike(make: Any, words: list[str]) -> None:
    tokenizer = make()
    prompt_format = choose_format(text_setup(tokenizer, bos=1, eos=2, pad=0, source=PLAIN), None, "data.template")
    row = exchange(words[0], "", words[1])
    rendered = prompt_format.conversation(row)
    swapped = rendered._replace(text=prompt_format._special.swap(rendered.text), as_text=True)
    (one,), (other,) = prompt_format.encode([rendered]), prompt_format.encode([swapped])
    assert one.ids == other.ids


def test_a_tokenizer_that_adds_tokens_itself() -> None:
    """Each special token once: the template writes them, or a format of ours does; the tokenizer's own are left out."""
    tokenizer = like_llama()
    for name, ids in ((None, [1, 2]), ("none", [1, 2]), ("alpaca", [1, 2]), ("chatml", [2])):
        text = text_setup(tokenizer, bos=1, eos=2, pad=0, source=PLAIN if name is None else None)
        prompt_format = choose_format(text, name, "data.template")
        documents = encode_rows([exchange("a", "", "b")], prompt_format, **OPTIONS)
        found = [token for token in documents.ids.tolist() if token in (1, 2)]
        assert found == ([1, 2, 2] if name is None else ids), name
        assert documents.ids[-1] == 2 or name == "chatml"


SIMPLE = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"


def test_special_tokens_that_the_model_has_no_embedding_for(tokenizer: Tokenizer) -> None:
    """A row's words don't lead to one; a prompt format that writes one can't be used."""
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.add_special_tokens(["<|extra|>"])
    number = tokenizer.token_to_id("<|extra|>")

    def made(source: str, **options: bool) -> PromptFormat:
        setup = replace(text_setup(tokenizer, source=source), beyond={"<|extra|>": number})
        return choose_format(setup, None, "data.template", **options)

    ids = made(SIMPLE).request("say <|extra|>")
    assert number not in ids
    message = refusal(made(SIMPLE, allow_special_tokens=True).request, "say <|extra|>")
    assert f"tokenizer_config.json: <|extra|> has id {number}, beyond the model's vocabulary" in message
    assert f"has id {number}, beyond" in refusal(made, "<|extra|>" + SIMPLE)
