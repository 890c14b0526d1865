"""Randomly damaged files of each format are read or refused; no other exception is raised."""

import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType
from test_convert import random_bits, to_hugging_face, to_mindformers, to_native, write_hf
from test_gguf_file import write_gguf
from tokenizers import AddedToken, Tokenizer, models
from weights_support import EMPTY_MODEL, NO_PATH, REFERENCE, TINY, weights_config

from dscoder_exp.schema.errors import Refused
from dscoder_exp.weights.convert.conversion import convert, open_conversion

SMALL = dataclasses.replace(TINY, hidden_size=32, intermediate_size=32, num_hidden_layers=1, vocab_size=40, head_dim=8)


def huggingface(directory: Path) -> Path:
    path = write_hf(directory, SMALL, random_bits(SMALL, "BF16", 1), "BF16")
    tokenizer = Tokenizer(models.WordLevel({f"w{index}": index for index in range(40)}, unk_token="w0"))
    tokenizer.add_tokens([AddedToken("w1", special=True), AddedToken("w2", special=True)])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text('{"chat_template": "<|im_start|>", "eos_token": "w2"}')
    return path


def sharded(directory: Path) -> Path:
    return to_hugging_face(huggingface(directory / "whole"), directory / "x", 10_000)


def native(directory: Path) -> Path:
    return to_native(huggingface(directory / "hf"), directory / "x", 2)


def ckpt(directory: Path) -> Path:
    return to_mindformers(huggingface(directory / "hf"), directory / "x", "ckpt")


def safetensors(directory: Path) -> Path:
    return to_mindformers(huggingface(directory / "hf"), directory / "x", "safetensors", 10_000)


def torch(directory: Path) -> Path:
    ignored = shutil.ignore_patterns("values.*", "legacy.bin", "nested.bin", "*-0000*", "*.index.json")
    return shutil.copytree(REFERENCE / "torch_files", directory, ignore=ignored)


def gguf(directory: Path) -> Path:
    directory.mkdir()
    words = ["<s>", "</s>", "<pad>", "w", "1", "w1", *(f"w{index}" for index in range(6, 40))]
    write_gguf(
        directory / "x.gguf",
        GGMLQuantizationType.Q8_0,
        add_tokenizer_model="gpt2",
        add_tokenizer_pre="smollm",
        add_token_list=words,
        add_token_types=[3 if index < 3 else 1 for index in range(40)],
        add_token_merges=["w 1"],
        add_chat_template="<|im_start|>",
    )
    return directory / "x.gguf"


def damage_bytes(file: Path, chance: random.Random) -> None:
    """Change, delete or insert a few bytes, mostly near the start, in the headers."""
    content = bytearray(file.read_bytes())
    end = min(len(content), chance.choice([16, 200, 4000, len(content)]))
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(max(end, 1))
        kind = chance.randrange(4)
        if kind == 0:
            content[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            content[place : place + 8] = chance.randbytes(8)
        elif kind == 2:
            del content[place : place + chance.choice([1, 7, 64, len(content)])]
        else:
            content[place:place] = chance.randbytes(chance.randint(1, 9))
    file.write_bytes(content)


VALUES: list[Any] = [None, True, -1, 0, 1, 2**70, 1.5, float("nan"), "", "x", "../x", [], [1, "a"], {}, {"a": None}]


def damage_json(file: Path, chance: random.Random) -> None:
    """Replace or delete one value at a random place."""
    value = json.loads(file.read_text())
    node, path = value, []
    while isinstance(node, dict | list) and node and (not path or chance.random() < 0.8):
        key = chance.choice(list(node)) if isinstance(node, dict) else chance.randrange(len(node))
        path.append((node, key))
        node = node[key]
    holder, key = path[-1]
    if chance.random() < 0.3:
        del holder[key]
    else:
        holder[key] = chance.choice(VALUES)
    file.write_text(json.dumps(value))


def snapshot(path: Path) -> dict[Path, bytes]:
    files = path.rglob("*") if path.is_dir() else [path]
    return {file: file.read_bytes() for file in files if file.is_file()}


@pytest.mark.parametrize("times", [150, pytest.param(1000, marks=pytest.mark.proof)])
@pytest.mark.parametrize("make", [huggingface, sharded, native, ckpt, safetensors, torch, gguf])
def test_damaged_files_are_read_or_refused(tmp_path: Path, make: Callable[[Path], Path], times: int) -> None:
    chance = random.Random(0)
    whole = make(tmp_path / "whole")
    target = tmp_path / "target"
    refused, surprises = 0, []
    for number in range(times):
        source = tmp_path / f"copy{whole.suffix}"
        copy = shutil.copytree if whole.is_dir() else shutil.copyfile
        copy(whole, source)
        file = chance.choice(sorted(snapshot(source)))
        damage = damage_json if file.suffix == ".json" and chance.random() < 0.7 else damage_bytes
        damage(file, chance)
        before = snapshot(source)
        form = chance.choice(["hf", "native", "mindformers"])
        try:
            convert(open_conversion(weights_config(source, target, format=form), EMPTY_MODEL, NO_PATH))
        except Refused:
            refused += 1
            assert not target.exists(), number
        except Exception as error:
            surprises.append(f"{number}: {file.name} by {damage.__name__}: {error!r}")
        assert snapshot(source) == before
        for path in (source, target):
            if path.is_dir():
                shutil.rmtree(path)
        source.unlink(missing_ok=True)
        assert list(tmp_path.iterdir()) == [tmp_path / "whole"]
    assert not surprises, "\n".join(surprises)
    assert 0.3 * times < refused < times
