"""The tokens that end an answer: read from each format, kept by each conversion."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from weights_support import EMPTY_MODEL, NO_PATH, REFERENCE, refusal, weights_config

from dscoder_exp.schema.config import TokenizerConfig
from dscoder_exp.weights.convert.conversion import convert, open_conversion
from dscoder_exp.weights.generation_config import GenerationConfig
from dscoder_exp.weights.lora.adapter import sha256_of
from dscoder_exp.weights.lora.writer import write_adapter
from dscoder_exp.weights.names import target_name
from dscoder_exp.weights.random_init import random_factors
from dscoder_exp.weights.resolve import open_model
from dscoder_exp.weights.source import open_weights

SETTINGS = {"do_sample": True, "temperature": 0.6, "bos_token_id": 1, "transformers_version": "5.0"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of tiny_gqa, without its generation_config.json; its EOS is 2."""
    copy = Path(shutil.copytree(REFERENCE / "tiny_gqa", tmp_path / "model"))
    (copy / "generation_config.json").unlink()
    return copy


def write(file: Path, **values: Any) -> None:
    before = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(before | values))


def stops(path: Path) -> tuple[int, ...]:
    return open_weights(str(path)).generation.stop_token_ids


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (2, None, (2,)),
        ([2, 43], None, (2, 43)),
        ([43, 2, 43], None, (43, 2)),
        (None, None, ()),
        (-1, None, ()),
        (2, {}, (2,)),
        ([2, 43], {"eos_token_id": None}, (2, 43)),
        (2, {"eos_token_id": [2, 43]}, (2, 43)),
        ([2, 7], {"eos_token_id": 43}, (43,)),
        (None, {"eos_token_id": [43]}, (43,)),
    ],
)
def test_generation_config_counts_first(
    directory: Path, config: Any, generation: dict[str, Any] | None, expected: tuple[int, ...]
) -> None:
    write(directory / "config.json", eos_token_id=config)
    if generation is not None:
        write(directory / "generation_config.json", **generation)
    assert stops(directory) == expected
    first = config[0] if isinstance(config, list) else None if config == -1 else config
    assert open_weights(str(directory)).config.eos_token_id == first


def test_a_config_without_the_key_has_transformers_default(directory: Path) -> None:
    values = json.loads((directory / "config.json").read_text())
    del values["eos_token_id"]
    (directory / "config.json").write_text(json.dumps(values))
    assert stops(directory) == (2,)


@pytest.mark.parametrize("value", ["</s>", [2, "43"], [2, -7], [], True, 2.5, [[2]]])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_what_is_no_token_id_is_refused(directory: Path, name: str, value: Any) -> None:
    write(directory / name, eos_token_id=value)
    message = refusal(open_weights, str(directory))
    assert f"{directory / name}: eos_token_id is {value!r}, not a token id\n      -> give a number or null" in message


def test_a_damaged_file_is_refused(directory: Path) -> None:
    (directory / "generation_config.json").write_text('{"eos_token_id": ')
    assert f"{directory}/generation_config.json:1: malformed JSON" in refusal(open_weights, str(directory))


def converted(source: Path, target: Path, tokenizer: TokenizerConfig = NO_PATH, **options: Any) -> Path:
    convert(open_conversion(weights_config(source, target, **options), EMPTY_MODEL, tokenizer))
    return target


@pytest.mark.parametrize("generation", [None, SETTINGS | {"eos_token_id": [2, 43]}])
def test_every_conversion_keeps_them(directory: Path, tmp_path: Path, generation: dict[str, Any] | None) -> None:
    """Of config.json's list, or generation_config.json's; its other keys, too. transformers reads both files."""
    if generation is None:
        write(directory / "config.json", eos_token_id=[2, 43])
    else:
        write(directory / "generation_config.json", **generation)
    source = directory
    steps: list[dict[str, Any]] = [
        {"format": "native", "tensor": 2},
        {"format": "mindformers", "ckpt_format": "ckpt"},
        {"format": "mindformers"},
        {"format": "native"},
        {"format": "hf"},
    ]
    for number, options in enumerate(steps):
        source = converted(source, tmp_path / f"{number}", **options)
        assert stops(source) == (2, 43), options
        assert open_weights(str(source)).config.eos_token_id == 2
    assert json.loads((source / "config.json").read_text())["eos_token_id"] == [2, 43]
    written = json.loads((source / "generation_config.json").read_text())
    assert written == (generation or {}) | {"bos_token_id": 1, "pad_token_id": 2, "eos_token_id": [2, 43]}


def test_a_single_end_token_stays_a_number(directory: Path, tmp_path: Path) -> None:
    target = converted(directory, tmp_path / "target")
    for name in ("config.json", "generation_config.json"):
        assert json.loads((target / name).read_text())["eos_token_id"] == 2


def test_a_chosen_eos_is_written_in_place_of_the_files(directory: Path, tmp_path: Path) -> None:
    write(directory / "generation_config.json", **SETTINGS, eos_token_id=[2, 43])
    model = replace(EMPTY_MODEL, bos_token_id=5, eos_token_id=7)
    wanted = weights_config(directory, tmp_path / "target")
    convert(open_conversion(wanted, model, NO_PATH))
    written = json.loads((tmp_path / "target" / "generation_config.json").read_text())
    assert (written["bos_token_id"], written["eos_token_id"], written["temperature"]) == (5, 7, 0.6)
    assert stops(tmp_path / "target") == (7,)
    listed = open_model(replace(EMPTY_MODEL, path=str(directory), eos_token_id=2))
    assert listed.generation.stop_token_ids == (2, 43)  # 2 is one of them: nothing is chosen otherwise


def test_another_directorys_tokenizer_brings_no_stop_tokens(directory: Path, tmp_path: Path) -> None:
    other = tmp_path / "tokenizer"
    other.mkdir()
    Tokenizer(models.WordLevel({f"{word}": word for word in range(20)}, unk_token="0")).save(
        str(other / "tokenizer.json")
    )
    write(other / "generation_config.json", eos_token_id=[11])
    target = converted(directory, tmp_path / "target", TokenizerConfig(str(other)))
    assert (target / "tokenizer.json").is_file()
    assert stops(target) == (2,)


def test_an_adapters_own_end_tokens_count_when_it_is_merged(directory: Path, tmp_path: Path) -> None:
    """It may have been trained with a prompt format that ends answers otherwise."""
    from dscoder_exp.schema.llama import Lora
    from dscoder_exp.weights.lora.setup import open_adapter

    source, lora = open_weights(str(directory)), Lora(2, 4.0, 0.0, ("q_proj",))
    base = str(directory), sha256_of(source.tensor(target_name(0, "k_proj")))
    (tmp_path / "adapter").mkdir()
    beside: dict[str, Any] = {"template": None, "generation": GenerationConfig((9, 2)), "lineage": {}}
    factors = random_factors(source.config, lora, 0)
    write_adapter(tmp_path / "adapter", source.config, lora, factors, base=base, **beside)
    opened = open_model(replace(EMPTY_MODEL, path=str(directory)))
    adapter = open_adapter(str(tmp_path / "adapter"), "adapter.path", opened)
    assert replace(opened, adapter=adapter).generation.stop_token_ids == (9, 2)
    assert stops(converted(directory, tmp_path / "merged", merge_adapter=str(tmp_path / "adapter"))) == (9, 2)
