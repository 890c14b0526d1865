"""Tokenizers in GGUF files, written as llama.cpp's convert_hf_to_gguf.py writes them: the ids are the original's."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType
from test_gguf_file import write_gguf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from weights_support import EMPTY_MODEL, REFERENCE, TINY, refusal

from dscoder_exp.schema.config import TokenizerConfig
from dscoder_exp.weights.formats.gguf_tokenizer import SPLITS
from dscoder_exp.weights.resolve import OpenedModel, open_text_setup, open_tokenizer
from dscoder_exp.weights.source import open_weights

SAMPLE = Path(__file__).parents[2] / "examples" / "code_instructions.json"
TEXTS = [
    "Hello, world! it's 12345 o'CLOCK, I'LL say.",
    "def f(x):\n    return x ** 2  # 42\n\n\n",
    "  \t leading,   inner and trailing   ",
    "\r\n\r\n mixed\n \n",
    "naïve café Straße ÀÉÎ øöú 你好，世界。 こんにちは 안녕 Привет שלום مرحبا",  # noqa: RUF001
    "😀👩‍👩‍👧 ½ ² Ⅷ １２３ ٣٤ \u200b\u00a0x\u3000y",  # noqa: RUF001
    "snake_case CamelCase kebab-case a.b->c == != <= [1,2]{3}",
    "",
    " ",
]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# tokenizer.ggml.pre -> pre_tokenizer and post-processing of the tokenizer.json that it stands for
ORIGINALS: dict[str, dict[str, Any]] = {
    "llama-bpe": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    },
    "gpt-2": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    },
}


def gguf_metadata(tokenizer: Tokenizer, pre: str, size: int = 0) -> dict[str, Any]:
    """What get_vocab_base and SpecialVocab of convert_hf_to_gguf.py make of a byte-level tokenizer.

    Args:
        size: of the model's vocabulary, which unused tokens fill up.
    """
    added = tokenizer.get_added_tokens_decoder()
    tokens, types = [], []
    for number in range(max(size, tokenizer.get_vocab_size())):
        text = tokenizer.id_to_token(number)
        tokens.append(f"[PAD{number}]" if text is None else text)
        looks_special = text is not None and re.fullmatch(r"<[|\uff5c].*[|\uff5c]>|<pad>", text)
        if text is None:
            types.append(TokenType.UNUSED)
        elif number in added:
            special = added[number].special or looks_special
            types.append(TokenType.CONTROL if special else TokenType.USER_DEFINED)
        else:
            types.append(TokenType.NORMAL)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return {
        "add_tokenizer_model": "gpt2",
        "add_tokenizer_pre": pre,
        "add_token_list": tokens,
        "add_token_types": types,
        "add_token_merges": [" ".join(merge) for merge in merges],
    }


def read_back(path: Path, **metadata: Any) -> Tokenizer:
    write_gguf(path, **metadata)
    found = open_weights(str(path)).tokenizer()
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "pre", "size"),
    [("deepseek-llm-7b", "deepseek-llm", 102400), ("deepseek-coder-33b", "deepseek-coder", 32256)],
)
def test_deepseeks_tokenizers(tmp_path, shared_data, name, pre, size):
    directory = shared_data / "tokenizers" / name
    original = Tokenizer.from_file(str(directory / "tokenizer.json"))
    metadata = gguf_metadata(original, pre, size)
    bos = next(token.content for token in original.get_added_tokens_decoder().values() if "begin" in token.content)
    metadata |= {"add_add_bos_token": True, "add_bos_token_id": original.token_to_id(bos)}
    found = read_back(tmp_path / "x.gguf", **metadata)
    assert found.get_vocab() == original.get_vocab()
    vectors = json.loads((directory / "test_vectors.json").read_text())
    for vector in vectors:
        assert found.encode(vector["text"], add_special_tokens=False).ids == vector["ids"]
    rows = json.loads((shared_data / "code_alpaca" / "code_alpaca_2k.json").read_text())
    texts = [*TEXTS, *(bos + row["instruction"] + row["input"] + row["output"] for row in rows[:500])]
    expected = [encoding.ids for encoding in original.encode_batch(texts)]  # with the bos that it adds
    assert [encoding.ids for encoding in found.encode_batch(texts)] == expected
    assert found.decode_batch(expected) == original.decode_batch(expected)


def trained(pre: str) -> Tokenizer:
    """A small tokenizer that splits as the original one does."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    whole = json.loads(tokenizer.to_str()) | {"pre_tokenizer": ORIGINALS[pre]}
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[AddedToken("<|begin_of_text|>", special=True), AddedToken("<|eot|>", special=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rows = json.loads(SAMPLE.read_text())
    tokenizer.train_from_iterator([*TEXTS, *(text for row in rows[:150] for text in row.values())], trainer)
    tokenizer.add_tokens(["added word"])
    return tokenizer


@pytest.mark.parametrize("pre", sorted(ORIGINALS))
def test_other_byte_level_tokenizers(tmp_path, pre):
    original = trained(pre)
    found = read_back(tmp_path / "x.gguf", **gguf_metadata(original, pre), add_add_bos_token=False)
    rows = json.loads(SAMPLE.read_text())
    texts = [*TEXTS, *(row["output"] for row in rows), "an added word<|eot|> 12<|begin_of_text|>"]
    expected = [encoding.ids for encoding in original.encode_batch(texts)]
    assert [encoding.ids for encoding in found.encode_batch(texts)] == expected
    assert found.decode_batch(expected) == original.decode_batch(expected)


def test_a_word_of_the_vocabulary_is_one_token_of_llama_3s(tmp_path):
    """Its merges don't lead to every token (ignore_merges)."""
    original = trained("llama-bpe")
    parts = json.loads(original.to_str())
    merges = [merge for merge in parts["model"]["merges"] if "".join(merge) != "Ġreturn"]
    assert len(merges) < len(parts["model"]["merges"])
    parts["model"]["merges"] = merges
    metadata = gguf_metadata(Tokenizer.from_str(json.dumps(parts)), "llama-bpe")
    assert read_back(tmp_path / "x.gguf", **metadata).encode("x return").tokens[-1] == "Ġreturn"


@pytest.mark.parametrize(
    ("pre", "given", "before", "after"),
    [
        ("llama-bpe", {}, [0], []),  # where the file doesn't say, as llama.cpp does
        ("llama-bpe", {"add_add_bos_token": False}, [], []),
        ("gpt-2", {}, [], []),
        ("gpt-2", {"add_add_bos_token": True, "add_add_eos_token": True}, [0], [1]),
    ],
)
def test_the_tokens_that_a_file_puts_around_a_text(tmp_path, pre, given, before, after):
    metadata = gguf_metadata(trained(pre), pre) | {"add_bos_token_id": 0, "add_eos_token_id": 1}
    found = read_back(tmp_path / "x.gguf", **metadata, **given)
    plain = found.encode("x = 1", add_special_tokens=False).ids
    assert found.encode("x = 1").ids == [*before, *plain, *after]


@pytest.fixture(scope="module")
def pieces() -> dict[str, Any]:
    """What sentencepiece has trained, and its ids: see make_sentencepiece.py."""
    return json.loads((REFERENCE / "sentencepiece" / "vocabulary.json").read_text())


def sentencepiece_metadata(pieces: dict[str, Any]) -> dict[str, Any]:
    """What _create_vocab_sentencepiece of convert_hf_to_gguf.py makes of a tokenizer.model."""
    return {
        "add_tokenizer_model": "llama",
        "add_tokenizer_pre": "default",
        "add_token_list": [*pieces["tokens"], "[PAD]"],
        "add_token_scores": [*pieces["scores"], -10000.0],
        "add_token_types": [*pieces["types"], TokenType.UNUSED],
        "add_unk_token_id": 0,
    }


def test_sentencepiece(tmp_path, pieces):
    found = read_back(tmp_path / "x.gguf", **sentencepiece_metadata(pieces))
    assert [found.encode(text).ids for text in pieces["texts"]] == [[TINY.bos_token_id, *ids] for ids in pieces["ids"]]
    for text, ids in zip(pieces["texts"], pieces["ids"], strict=True):
        assert found.decode(ids) == text
    assert found.encode("a<fim>b</s>", add_special_tokens=False).ids[-1] == 2
    assert found.token_to_id("<fim>") in found.encode("a<fim>b").ids
    assert found.token_to_id("[PAD]") is None


def test_sentencepiece_without_a_space_before_the_text(tmp_path, pieces):
    metadata = sentencepiece_metadata(pieces) | {"add_add_space_prefix": False, "add_add_bos_token": False}
    found = read_back(tmp_path / "x.gguf", **metadata)
    with_space = found.encode(" return x").ids
    index = pieces["texts"].index("Hello, world!")
    assert found.encode(" Hello, world!").ids == pieces["ids"][index]
    assert found.encode("return x").ids != with_space
    assert found.decode(found.encode("return x").ids) == "return x"


def test_sentencepiece_without_scores_ranks_by_id(tmp_path, pieces):
    """As in files that were made from a tokenizer.json (LlamaHfVocab): all scores are -1000."""
    metadata = sentencepiece_metadata(pieces) | {"add_token_scores": [-1000.0] * (len(pieces["tokens"]) + 1)}
    found = read_back(tmp_path / "x.gguf", **metadata)
    assert [found.encode(text).ids[1:] for text in pieces["texts"]] == pieces["ids"]


def test_two_tokens_with_one_text_are_refused(tmp_path, pieces):
    metadata = sentencepiece_metadata(pieces)
    metadata["add_token_list"][5] = metadata["add_token_list"][6]
    write_gguf(tmp_path / "x.gguf", **metadata)
    message = refusal(open_weights(str(tmp_path / "x.gguf")).tokenizer)
    assert "its tokenizer is damaged (two tokens with the same text)" in message


def test_with_tokenizer_path_the_files_own_is_not_built(tmp_path):
    """An unknown pre-tokenizer is no obstacle then, but another vocabulary is."""
    original = trained("gpt-2")
    original.save(str(tmp_path / "tokenizer.json"))
    metadata = gguf_metadata(original, "never-heard-of", original.get_vocab_size() + 20)
    weights_size: dict[str, Any] = {
        "add_vocab_size": original.get_vocab_size() + 20,
        "add_bos_token_id": 0,
        "add_eos_token_id": 1,
    }
    write_gguf(tmp_path / "x.gguf", **metadata, **weights_size)
    source = open_weights(str(tmp_path / "x.gguf"))
    opened = OpenedModel(source.config, source, None)
    given = TokenizerConfig(str(tmp_path / "tokenizer.json"))
    assert open_text_setup(EMPTY_MODEL, given, opened).eos_token_id == 1
    assert "set tokenizer.path to the model's" in refusal(open_tokenizer, TokenizerConfig(None), opened)
    metadata["add_token_list"][300], metadata["add_token_list"][301] = metadata["add_token_list"][301:299:-1]
    write_gguf(tmp_path / "x.gguf", **metadata, **weights_size)
    source = open_weights(str(tmp_path / "x.gguf"))
    one, other = metadata["add_token_list"][300], metadata["add_token_list"][301]
    what = f"{tmp_path / 'tokenizer.json'} is not the tokenizer of {tmp_path / 'x.gguf'}: 300 is {other!r}, not {one!r}"
    assert what in refusal(open_tokenizer, given, OpenedModel(source.config, source, None))


def test_the_supported_splits_are_named(tmp_path):
    write_gguf(tmp_path / "x.gguf", add_tokenizer_model="gpt2", add_tokenizer_pre="viking", add_token_list=["a"])
    message = refusal(open_weights(str(tmp_path / "x.gguf")).tokenizer)
    assert f"model 'gpt2' with pre {', '.join(SPLITS)}" in message
