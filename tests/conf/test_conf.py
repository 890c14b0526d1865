"""Every file of conf/ composes, with every experiment, into what the schema takes; and no key of it is unexplained."""

import re
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml
from conf_support import CONF, composed, options, typed
from hydra.core.override_parser.overrides_parser import OverridesParser

from dscoder_exp.schema.check import to_config
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.cross import cross_problems
from dscoder_exp.schema.suggest import dataclass_in
from msrun_launcher.settings import read_settings

pytestmark = pytest.mark.usefixtures("hydra_ready")
GROUPS = [item.name for item in fields(Config) if dataclass_in(get_type_hints(Config)[item.name])]
EXPERIMENTS = options("experiment")


def schema_of(group: str) -> type:
    schema = dataclass_in(get_type_hints(Config)[group])
    assert schema is not None
    return schema


def test_every_folder_is_a_group_of_the_schema() -> None:
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == {*GROUPS, "experiment", "hydra"}


@pytest.mark.parametrize("experiment", ["", *EXPERIMENTS])
@pytest.mark.parametrize("turn", range(max(len(options(group)) for group in GROUPS)))
def test_every_option_composes_with_every_experiment(experiment: str, turn: int) -> None:
    chosen = {group: options(group)[turn % len(options(group))] for group in GROUPS}
    base = [f"+experiment={experiment}"] if experiment else []
    config = composed(*base, *(f"{group}={option}" for group, option in chosen.items()))
    assert {group: config.hydra.runtime.choices[group] for group in GROUPS} == chosen
    to_config(config)  # refuses what the schema doesn't know


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs_small(experiment: str) -> None:
    config = typed(f"+experiment={experiment}", "model=tiny", "runtime=cpu", "parallel=single", "data=sample")
    assert cross_problems(config) == []
    assert config.name == experiment
    assert (config.model.init, config.tokenizer.path) == ("random", "pkg://dscoder_exp/examples/tiny_tokenizer.json")
    assert config.runtime.device == "cpu"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiments_command_stands_at_its_top(experiment: str) -> None:
    first, second = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()[:2]
    assert first == "# @package _global_"  # Hydra reads it in this place only
    assert second.startswith(f"# python -m dscoder_exp +experiment={experiment}")


def test_the_recipe_is_the_7b_on_eight_npus() -> None:
    choices = composed("+experiment=finetune_8k").hydra.runtime.choices
    assert [choices[group] for group in ("model", "data", "parallel", "runtime")] == [
        "7b",
        "code_alpaca",
        "dp8",
        "ascend",
    ]
    config = typed("+experiment=finetune_8k")
    assert (config.seq_length, config.data.packing, config.model.max_position_embeddings) == (8192, True, 4096)
    assert (config.train.global_batch_size, config.accumulation_steps, config.parallel.ranks) == (8, 1, 8)
    assert config.optim.lr * config.optim.min_lr_ratio == pytest.approx(1e-6)


@pytest.mark.parametrize("seq_length", ["128", "256"])
@pytest.mark.parametrize("experiment", ["quickstart", "tiny"])
def test_a_sweep_over_the_sequence_length_composes(experiment: str, seq_length: str) -> None:
    override = OverridesParser.create().parse_override("seq_length=128,256")
    assert list(override.sweep_string_iterator()) == ["128", "256"]
    config = typed(f"+experiment={experiment}", f"seq_length={seq_length}")
    assert (config.seq_length, cross_problems(config)) == (int(seq_length), [])


def test_the_documented_commands_compose() -> None:
    predict = typed("task=predict", "model.path=DIR", 'predict.prompt="write a quick sort algorithm."')
    assert cross_problems(predict) == []
    assert (predict.model.vocab_size, predict.predict.prompt) == (None, "write a quick sort algorithm.")
    prepare = ["task=prepare", "data=code_alpaca", "data.source=F.json", "tokenizer.path=DIR", "seq_length=4096"]
    assert typed(*prepare, "data.packing=true").task.in_process


def test_preparing_data_is_not_tracked_unless_asked() -> None:
    assert not typed("task=prepare").tracking.enabled
    assert typed("task=prepare", "tracking=mlflow").tracking.enabled
    assert typed("task=train").tracking.enabled


def test_a_tokenizer_on_the_command_line_wins_over_the_models() -> None:
    assert typed("model=tiny", "tokenizer.path=mine").tokenizer.path == "mine"
    assert typed("model=tiny", "tokenizer=default").tokenizer.path is None


def test_the_instruct_model_differs_in_its_end_alone() -> None:
    base, instruct = typed("model=7b").model, typed("model=7b_instruct").model
    differing = [item.name for item in fields(base) if getattr(base, item.name) != getattr(instruct, item.name)]
    assert differing == ["template", "eos_token_id"]


@pytest.mark.parametrize(
    ("overrides", "bound"),
    [
        ([], False),
        (["runtime=ascend"], True),
        (["runtime=ascend", "runtime.bind_core=false"], False),
        (["runtime=ascend", "hydra.launcher.bind_core=false"], False),
        (["runtime=ascend", "hydra.launcher.bind_core={device0:[0-3]}"], {"device0": ["0-3"]}),
    ],
)
def test_cores_are_bound_on_npus_unless_the_user_says_otherwise(overrides: list[str], bound: object) -> None:
    assert read_settings(composed(*overrides)).bind_core == bound


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in GROUPS for option in options(group)])
def test_every_key_is_written_out_and_explained(group: str, option: str) -> None:
    """A file holds each key of its group, or inherits it from a neighbour; beside each stands what it means."""
    keys, inherits = read(CONF / group / f"{option}.yaml")
    names = {item.name for item in fields(schema_of(group))}
    assert keys <= names
    assert keys == names or inherits


def test_every_top_level_key_is_explained() -> None:
    keys, _ = read(CONF / "config.yaml")
    assert keys == {item.name for item in fields(Config)} - set(GROUPS)


def read(file: Path) -> tuple[set[str], bool]:
    """The keys of a file, each of which has a remark, and whether the file builds on another of its group."""
    text = file.read_text()
    content = yaml.safe_load(text)
    defaults = content.pop("defaults", [])
    content.pop("hydra", None)
    lines = text.splitlines()
    for key in content:
        (number,) = (number for number, line in enumerate(lines) if re.match(rf"{key}:", line))
        assert re.search(r"\S +# \S", lines[number]) or lines[number - 1].startswith("# "), f"{file}: {key}"
    return set(content), any(isinstance(default, str) and default != "_self_" for default in defaults)
