"""Loading tokenizers from files, and checking that they fit a model."""

import dataclasses

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from weights_support import TINY, refusal

from dscoder_exp.weights.tokenizer import fingerprint, load_tokenizer, special_beyond, vocabulary_problem

DEEPSEEK = dataclasses.replace(TINY, vocab_size=102400, bos_token_id=100000, eos_token_id=100001, pad_token_id=100015)


def words(count: int) -> Tokenizer:
    return Tokenizer(models.WordLevel({f"w{index}": index for index in range(count)}, unk_token="w0"))


def test_file_and_directory_give_the_same_tokenizer(tmp_path):
    words(5).save(str(tmp_path / "tokenizer.json"))
    from_directory = load_tokenizer(str(tmp_path))
    assert from_directory.encode("w3").ids == [3]
    assert fingerprint(from_directory) == fingerprint(load_tokenizer(str(tmp_path / "tokenizer.json")))
    assert fingerprint(from_directory) != fingerprint(words(6))


def test_refused(tmp_path):
    assert f"tokenizer.path: no tokenizer.json in {tmp_path}" in refusal(load_tokenizer, str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    file = tmp_path / "tokenizer.json"
    assert f"model.path: {file}: not a readable tokenizer (" in refusal(load_tokenizer, str(file), "model.path")


@pytest.mark.parametrize(
    ("size", "changes", "problem"),
    [
        (96, {}, None),
        (3, {}, None),
        (97, {}, "tokenizer.path: the tokenizer has ids up to 96, the model's vocabulary ends at 95"),
        (90, {"pad_token_id": 95}, None),
        (90, {"pad_token_id": 96}, "model.pad_token_id: the model's pad_token_id 96 is above its own vocabulary"),
        (90, {"eos_token_id": 200}, "model.eos_token_id: the model's eos_token_id 200 is above its own vocabulary"),
        (90, {"eos_token_id": 91}, "tokenizer.path: the model's eos_token_id 91 is not in the tokenizer, whose ids"),
        (90, {"bos_token_id": 91}, "tokenizer.path: the model's bos_token_id 91 is not in the tokenizer, whose ids"),
        (90, {"bos_token_id": None, "eos_token_id": None}, None),
    ],
)
def test_vocabulary(size, changes, problem):
    found = vocabulary_problem(words(size), dataclasses.replace(TINY, **changes))
    assert found is None if problem is None else str(found).startswith(problem)


def test_an_id_beyond_a_gap_counts():
    tokenizer = Tokenizer(models.WordLevel({"a": 1, "b": 2, "c": 500}, unk_token="a"))
    assert str(vocabulary_problem(tokenizer, TINY)).startswith("tokenizer.path: the tokenizer has ids up to 500,")


def test_special_tokens_beyond_the_vocabulary_are_not_used():
    """A padding token that was added without resizing the embedding; words that were added lead to their ids."""
    padded = special(words(96), "w1", "w2")
    padded.add_special_tokens([AddedToken("[PAD]", special=True)])
    assert vocabulary_problem(padded, TINY) is None
    assert special_beyond(padded, 96) == {"[PAD]": 96}
    assert special_beyond(padded, 97) == {}
    padded.add_tokens(["kubernetes"])
    problem = str(vocabulary_problem(padded, TINY))
    assert problem.startswith("tokenizer.path: the tokenizer has ids up to 97, the model's vocabulary ends at 95")


def special(tokenizer: Tokenizer, *texts: str) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in texts])
    return tokenizer


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),  # bos 1 and eos 2 are special
        ({"eos_token_id": 95}, None),  # an instruct model's EOS that the base model's tokenizer lacks
        (
            {"bos_token_id": 95},
            "tokenizer.path: the model's bos_token_id 95 is not in the tokenizer, whose ids end at 89",
        ),
        (
            {"bos_token_id": 95, "eos_token_id": 95},
            "tokenizer.path: the model's bos_token_id 95 is not in the tokenizer",
        ),
        ({"bos_token_id": None, "eos_token_id": 95}, "tokenizer.path: the model's eos_token_id 95 is not in the"),
        (
            {"eos_token_id": 7},
            "tokenizer.path: the model's eos_token_id 7 is an ordinary token of the tokenizer ('w7')",
        ),
        (
            {"bos_token_id": 7},
            "tokenizer.path: the model's bos_token_id 7 is an ordinary token of the tokenizer ('w7')",
        ),
    ],
)
def test_special_tokens_must_match_even_if_the_sizes_fit(changes, problem):
    found = vocabulary_problem(special(words(90), "w1", "w2"), dataclasses.replace(TINY, **changes))
    assert found is None if problem is None else str(found).startswith(problem)


def test_the_fingerprint_covers_all_that_ids_depend_on():
    first = fingerprint(special(words(5), "w1"))
    assert (first.vocab_size, first.special) == (5, {"w1": 1})
    assert str(first) == f"5 entries, special w1 1, SHA-256 {first.sha256[:8]}…"
    same = special(words(5), "w1")
    same.post_processor = processors.TemplateProcessing(single="w1 $A", special_tokens=[("w1", 1)])
    same.decoder = decoders.ByteLevel()
    same.enable_truncation(3)
    assert fingerprint(same) == first
    plain = words(5)
    plain.add_tokens([AddedToken("w1", special=False, normalized=False)])
    assert fingerprint(plain).sha256 == first.sha256
    splitting, normalising = special(words(5), "w1"), special(words(5), "w1")
    splitting.pre_tokenizer = pre_tokenizers.Digits()
    normalising.normalizer = normalizers.Lowercase()
    others = [words(5), words(6), special(words(5), "w2"), splitting, normalising]
    hashes = {fingerprint(tokenizer).sha256 for tokenizer in others}
    assert len(hashes | {first.sha256}) == 6


def test_deepseek_tokenizers(shared_data):
    right = load_tokenizer(str(shared_data / "tokenizers" / "deepseek-llm-7b"))
    wrong = load_tokenizer(str(shared_data / "tokenizers" / "deepseek-coder-33b"))
    for eos in (100001, 100015):  # 7b, 7b_instruct
        model = dataclasses.replace(DEEPSEEK, eos_token_id=eos)
        assert vocabulary_problem(right, model) is None
        assert str(vocabulary_problem(wrong, model)).startswith(
            "tokenizer.path: the model's bos_token_id 100000 is not in the tokenizer, whose ids end at "
        )
    found = fingerprint(right)
    assert (found.vocab_size, list(found.special.values())) == (100015, [100000, 100001])
