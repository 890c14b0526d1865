"""Fill-in-the-middle: each family's tokens, in its order; others are refused by name."""

import pytest
from data_support import format_named
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from weights_support import refusal

from dscoder_exp.data.infill import infill_prompt

FAMILIES = [
    ([f"<\uff5cfim▁{name}\uff5c>" for name in ("begin", "hole", "end")], "<|EOT|>"),
    (["<fim_prefix>", "<fim_suffix>", "<fim_middle>"], "<|endoftext|>"),
    (["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"], "<|endoftext|>"),
    (["<fim-prefix>", "<fim-suffix>", "<fim-middle>"], "<|endoftext|>"),
]


def with_tokens(tokenizer: Tokenizer, tokens: list[str]) -> Tokenizer:
    made = Tokenizer.from_str(tokenizer.to_str())
    made.add_tokens([AddedToken(token, special=False) for token in tokens])
    return made


@pytest.mark.parametrize(("tokens", "end"), FAMILIES)
def test_prefix_suffix_middle(tokenizer: Tokenizer, tokens: list[str], end: str) -> None:
    made = with_tokens(tokenizer, [*tokens, end])
    prompt_format = format_named("none", made)
    ids, ends = infill_prompt(prompt_format, made, "def add(a, b):\n    ", "\n    return c", "predict.prefix")
    written = f"{tokens[0]}def add(a, b):\n    {tokens[1]}\n    return c{tokens[2]}"
    assert made.decode(ids, skip_special_tokens=False) == written
    assert ids == made.encode(written, add_special_tokens=False).ids
    assert ends == {made.token_to_id(end)}


def test_names_of_tokens_in_the_code_are_text(tokenizer: Tokenizer) -> None:
    tokens = FAMILIES[0][0]
    made = with_tokens(tokenizer, tokens)
    ids, _ = infill_prompt(format_named("none", made), made, f"# {tokens[1]}\n", "", "predict.prefix")
    assert [ids.count(made.token_to_id(token) or 0) for token in tokens] == [1, 1, 1]
    assert made.decode(ids, skip_special_tokens=False) == f"{tokens[0]}# {tokens[1]}\n{tokens[1]}{tokens[2]}"


def test_codellama_gets_no_blank_before_a_text() -> None:
    """As transformers' CodeLlamaTokenizer: prefix and suffix are encoded without sentencepiece's leading blank."""
    specials = ["<s>", "</s>", "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"]
    letters = ["▁", "a", "b", "▁a", "▁b"]
    vocab = {text: number for number, text in enumerate([*specials, *letters])}
    made = Tokenizer(models.BPE(vocab, [("▁", "a"), ("▁", "b")]))
    made.normalizer = normalizers.Sequence(  # type: ignore[assignment]
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]  # type: ignore[list-item]
    )
    made.add_special_tokens(specials)
    ids, ends = infill_prompt(format_named("none", made, bos=None), made, "a b", "b", "predict.prefix")
    assert [made.id_to_token(number) for number in ids] == ["▁<PRE>", "a", "▁b", "▁<SUF>", "b", "▁<MID>"]
    assert ends == {5}


def test_metaspace_gets_no_blank_either() -> None:
    specials = ["<s>", "</s>", "▁<PRE>", "▁<SUF>", "▁<MID>"]
    vocab = {text: number for number, text in enumerate([*specials, "▁", "a", "b", "▁a", "▁b"])}
    made = Tokenizer(models.BPE(vocab, [("▁", "a"), ("▁", "b")]))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)  # type: ignore[assignment]
    made.add_special_tokens(specials)
    ids, _ = infill_prompt(format_named("none", made, bos=None), made, "a b", "b", "predict.prefix")
    assert [made.id_to_token(number) for number in ids] == ["▁<PRE>", "a", "▁b", "▁<SUF>", "b", "▁<MID>"]


def test_a_tokenizer_without_such_tokens_is_refused_by_name(tokenizer: Tokenizer) -> None:
    message = refusal(lambda: infill_prompt(format_named("none", tokenizer), tokenizer, "a", "b", "predict.prefix"))
    assert "predict.prefix: the model can't fill in the middle: its tokenizer has no token for it, such as " in message
    assert "<fim_prefix> (StarCoder)" in message
