"""Tokenizers from files, and whether they fit a model."""

import dataclasses

import pytest
from tokenizers import Tokenizer, models
from weights_support import TINY, refusal

from dscoder_exp.weights.tokenizer import fingerprint, load_tokenizer, vocabulary_problem

DEEPSEEK = dataclasses.replace(TINY, vocab_size=102400, bos_token_id=100000, eos_token_id=100001, pad_token_id=100015)


def words(count: int) -> Tokenizer:
    return Tokenizer(models.WordLevel({f"w{index}": index for index in range(count)}, unk_token="w0"))


def test_file_and_directory_give_the_same(tmp_path):
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


def test_deepseek_tokenizers(shared_data):
    right = load_tokenizer(str(shared_data / "tokenizers" / "deepseek-llm-7b"))
    wrong = load_tokenizer(str(shared_data / "tokenizers" / "deepseek-coder-33b"))
    assert vocabulary_problem(right, DEEPSEEK) is None
    assert str(vocabulary_problem(wrong, DEEPSEEK)).startswith(
        "tokenizer.path: the model's bos_token_id 100000 is not in the tokenizer, whose ids end at "
    )
