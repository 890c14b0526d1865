"""What is typed for a path, a name or a prompt arrives as it is, in a single run and in a sweep, now and run again."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dscoder_exp.schema.bounds import bounds_of
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.overrides import NAME_KEYS, PATHS, PROMPT_KEYS, QUOTED, for_hydra, literal, typed

NO_FREE_TEXT = {"weights.max_shard_size", "compare.sweep"}
ANY = [
    "数据/训练.json",
    "a=b.json",
    "it's (1).json",
    "a,b [c] {d}.json",
    "a$b #1.json",
    "'a' and b",
    '"a',
    "(",
    "a: b~",
    "x ",
]
ANY += [
    "2024",
    "007",
    "1e5",
    "true",
    "é",
    "a\nb",
    "tab\there",
    "cost${5",
    "back\\slash",
    "ends\\",
    "\\'",
    "100%",
    "-a",
    "@",
    "*",
]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


def jobs_of(*arguments: str, sweep: bool = False) -> list[list[str]]:
    """Each job's overrides, as Hydra writes them down."""
    overrides = OverridesParser.create().parse_overrides(for_hydra(arguments, sweep=sweep))
    return BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]


def value_of(override: str) -> Any:
    return OmegaConf.create({"value": OverridesParser.create().parse_override(override).value()}).value


def values(argument: str, *, sweep: bool = False) -> list[Any]:
    """The values of a command line's jobs; the overrides recorded of each give the same when typed."""
    jobs = jobs_of(argument, sweep=sweep)
    for job in jobs:
        assert jobs_of(*job) == [job]
    return [value_of(override) for [override] in jobs]


def free_texts(schema: type = Config, prefix: str = "") -> Iterator[str]:
    hints = get_type_hints(schema)
    for field in dataclasses.fields(schema):
        hint, bounds = hints[field.name], bounds_of(field)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from free_texts(hint, f"{prefix}{field.name}.")
        elif str in (hint, *get_args(hint)) and not {"set_at_launch"} & bounds.keys():
            closed = "choices" in bounds and "file" not in bounds
            if not closed and not str(hint).startswith("list"):
                yield prefix + field.name


def test_every_key_of_free_text_is_known() -> None:
    listed = {key for key in (*PATHS, *NAME_KEYS, *PROMPT_KEYS) if not key.startswith("hydra.")}
    assert listed == set(free_texts()) - NO_FREE_TEXT


@pytest.mark.parametrize("text", ANY)
@pytest.mark.parametrize(
    "key", ["data.source", "+output_dir", "hydra.sweep.dir", "tracking.uri", "name", "predict.prompt"]
)
def test_any_characters_are_typed_once(key: str, text: str) -> None:
    assert values(f"{key}={text}") == [text]
    assert values(f"{key}={text}", sweep=True) == ([text] if "prompt" in key else text.split(","))


@given(text=TEXT)
def test_a_prompt_is_any_text(text: str) -> None:
    assume(not QUOTED.fullmatch(text) and text.lower() != "null" and text != "???")  # OmegaConf's mark of no value
    assert values(f"predict.prompt={text}") == [text]
    assume(not text.startswith("choice(") and text[0] not in "'\"")
    assert values(f"predict.prompt={text}", sweep=True) == [text]


@given(text=TEXT, key=st.sampled_from(["model.path", "name", "predict.prompt"]))
def test_what_a_command_of_ours_suggests_arrives(text: str, key: str) -> None:
    assume(text != "???")
    assert values(typed(key, text)) == [text]


@pytest.mark.parametrize("text", ["'a, b'", '"a, b"', "null", "''"])
@pytest.mark.parametrize("key", ["data.source", "name", "predict.prompt"])
def test_what_is_quoted_for_hydra_stays(key: str, text: str) -> None:
    argument = f"{key}={text}"
    assert for_hydra([argument], sweep=True) == for_hydra([argument], sweep=False) == [argument]


@pytest.mark.parametrize(
    "argument",
    ["~name", "seed=0,1", "optim.betas=[0.9,0.95]", "+experiment=tiny", "--cfg", "name=", "data=sample", "optim.lr=数"],
)
def test_other_arguments_stay(argument: str) -> None:
    assert for_hydra([argument], sweep=True) == for_hydra([argument], sweep=False) == [argument]


def test_paths_and_names_interpolate_but_prompts_dont() -> None:
    for key, expected in (("output_dir", "it's/3"), ("name", "it's/3"), ("predict.prompt", "it's/${seed}")):
        [[override]] = jobs_of(f"{key}=it's/${{seed}}")
        value = OverridesParser.create().parse_override(override).value()
        assert OmegaConf.create({"seed": 3, "value": value}).value == expected
    assert values("name=a\\=b") == ["a=b"]  # Hydra's own way to write it


def test_an_existing_path_is_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a,b.json", "${x}", "a\\=b"):
        (tmp_path / name).touch()
        assert values(f"data.source={name}", sweep=True) == [name]
    assert values("data.source=~/a,b.json", sweep=True) == ["~/a,b.json"]
    assert values("data.source=a,c.json", sweep=True) == ["a", "c.json"]


def test_hydras_own_paths_know_the_home_directory() -> None:
    assert values("hydra.sweep.dir=~/a b") == [os.path.expanduser("~/a b")]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("data.source=a.json,数据.json,it's.json", ["a.json", "数据.json", "it's.json"]),
        ("data.source='a,b',~/c", ["a,b", "~/c"]),
        ("output_dir=f(1,2),${oc.env:X_,y}", ["f(1,2)", "y"]),
        ("name=ok,raise", ["ok", "raise"]),
        ("name=基线, lr 1e-4", ["基线, lr 1e-4"]),
        ("name=ok,", ["ok,"]),
        ("name=choice('x, y',一)", ["x, y", "一"]),
        ("name=glob(*)x", ["glob(*)x"]),
        ("predict.prompt=a,b", ["a,b"]),
        ("predict.prompt='a, b', \"c\"", ["a, b", "c"]),
        ("predict.prompt=choice(写,f(x, y))", ["写", "f(x, y)"]),
        ("predict.prompt=sort(a, b)", ["sort(a, b)"]),
        ("train.prompts=[a],[写]", [["a"], ["写"]]),
    ],
)
def test_a_sweep(argument: str, expected: list[Any]) -> None:
    assert values(argument, sweep=True) == expected


def test_the_functions_of_hydra_sweep_a_name() -> None:
    assert len(jobs_of("name=range(1,4)", sweep=True)) == 3
    assert values("name=range(1,4)") == ["range(1,4)"]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ('train.prompts=[What\'s f(a, b)?, 写一个排序, "x, y"]', ["What's f(a, b)?", "写一个排序", "x, y"]),
        ("train.prompts=[Add two numbers., null]", ["Add two numbers.", None]),
        ("weights.allow=[layers.[0-9]*, '*.bias']", ["layers.[0-9]*", "*.bias"]),
        ("+data.columns={prompt: 问题, response: it's}", {"prompt": "问题", "response": "it's"}),
        ("+a.b=[{c: 一}, 2]", [{"c": "一"}, 2]),
    ],
)
def test_a_list_of_texts(argument: str, expected: Any) -> None:
    assert values(argument) == [expected]


@given(text=TEXT)
def test_a_literal_is_no_interpolation(text: str) -> None:
    assume(text != "???")
    assert OmegaConf.create({"value": literal(text)}).value == text
