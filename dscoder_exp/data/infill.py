"""Fill-in-the-middle: the prompt that asks for what stands between a prefix and a suffix (arXiv:2207.14255).

The order is prefix, suffix, middle, as these models were trained: DeepSeek-Coder's README; StarCoder's (BigCode), whose
tokens Granite shares; Qwen2.5-Coder's README, whose tokens CodeGemma shares; CodeLlama's paper
(arXiv:2308.12950) and transformers' CodeLlamaTokenizer.
"""

import json
from typing import TYPE_CHECKING, NamedTuple

from dscoder_exp.data.prompt_format import PromptFormat
from dscoder_exp.schema.errors import refuse

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Infilling(NamedTuple):
    """The tokens of one family: `before` + prefix + `between` + suffix + `after`, and what ends the middle.

    Attributes:
        ends: besides the model's own stop tokens; those that the tokenizer has.
    """

    family: str
    before: str
    between: str
    after: str
    ends: tuple[str, ...]


FAMILIES = (
    Infilling(
        "DeepSeek-Coder",
        "<\uff5cfim\u2581begin\uff5c>",
        "<\uff5cfim\u2581hole\uff5c>",
        "<\uff5cfim\u2581end\uff5c>",
        ("<\uff5cend\u2581of\u2581sentence\uff5c>", "<|EOT|>"),
    ),
    Infilling(
        "Qwen",
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        ("<|endoftext|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>"),
    ),
    Infilling(
        "StarCoder", "<fim_prefix>", "<fim_suffix>", "<fim_middle>", ("<|endoftext|>", "<fim_pad>", "<file_sep>")
    ),
    Infilling("SantaCoder", "<fim-prefix>", "<fim-suffix>", "<fim-middle>", ("<|endoftext|>", "<fim-pad>")),
    Infilling("CodeLlama", "\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>", ("\u2581<EOT>",)),
)


def infilling_of(tokenizer: "Tokenizer", where: str) -> Infilling:
    """The family whose tokens a tokenizer has.

    Args:
        where: the config key that asks for infilling.

    Raises:
        Refused: it has none of them.
    """
    for family in FAMILIES:
        if all(tokenizer.token_to_id(token) is not None for token in (family.before, family.between, family.after)):
            return family
    names = ", ".join(f"{family.before} ({family.family})" for family in FAMILIES)
    what = f"the model can't fill in the middle: its tokenizer has no token for it, such as {names}"
    raise refuse(where, what, "give predict.prompt, or a model that was trained to fill in the middle")


def infill_prompt(
    prompt_format: PromptFormat, tokenizer: "Tokenizer", prefix: str, suffix: str, where: str
) -> tuple[list[int], set[int]]:
    """Token ids of the prompt, and the tokens that end the middle besides the model's stop tokens.

    Names of special tokens in `prefix` and `suffix` are text.

    Raises:
        Refused: the tokenizer has no tokens for this.
    """
    family = infilling_of(tokenizer, where)
    texts = _without_leading_space(prompt_format.text_tokenizer)
    before, between, after = (tokenizer.token_to_id(token) for token in (family.before, family.between, family.after))
    first, second = (texts.encode(text, add_special_tokens=False).ids for text in (prefix, suffix))
    ends = {number for token in family.ends if (number := tokenizer.token_to_id(token)) is not None}
    ids = [*prompt_format.opening, before, *first, between, *second, after]
    prompt_format.refuse_beyond(ids)
    return ids, ends


def _without_leading_space(tokenizer: "Tokenizer") -> "Tokenizer":
    """The tokenizer without the blank that sentencepiece's put before a text, as in CodeLlamaTokenizer's infilling."""
    from tokenizers import Tokenizer

    parts = json.loads(tokenizer.to_str())
    normalizer = parts["normalizer"] or {}
    steps = normalizer.get("normalizers", [normalizer])
    kept = [step for step in steps if step.get("type") != "Prepend"]
    metaspace = [step for step in _steps(parts["pre_tokenizer"]) if step.get("type") == "Metaspace"]
    if len(kept) == len(steps) and not metaspace:
        return tokenizer
    parts["normalizer"] = {"type": "Sequence", "normalizers": [step for step in kept if step]}
    for step in metaspace:
        step["prepend_scheme"] = "never"
    return Tokenizer.from_str(json.dumps(parts))


def _steps(part: dict | None) -> list[dict]:
    """A pre-tokenizer's steps; one that isn't a sequence is its own only step."""
    return [] if part is None else part.get("pretokenizers", [part])
