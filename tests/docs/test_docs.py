"""README.md and docs/ say what is true: their commands compose, their refusals are word for word, their names exist."""

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_type_hints

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser

from dscoder_exp.app import config_directory, main
from dscoder_exp.data.report import DataReport
from dscoder_exp.schema.check import to_config
from dscoder_exp.schema.config import TEMPLATES, Config
from dscoder_exp.schema.cross import cross_problems
from dscoder_exp.schema.overrides import for_hydra
from dscoder_exp.schema.suggest import all_keys, dataclass_in
from dscoder_exp.tracking.metrics import METRICS
from hydra_plugins.msrun_launcher.config import MsrunLauncherConf

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
COMMAND = "python -m dscoder_exp"
GROUPS = [*(item.name for item in fields(Config) if dataclass_in(get_type_hints(Config)[item.name])), "experiment"]
FILES = (
    "json",
    "png",
    "safetensors",
    "ckpt",
    "mindrecord",
    "md",
    "txt",
    "py",
    "html",
)  # ends of names that look like keys
BAD_ROWS = '{"instruction": "a", "output": "b"}\n{"instruction": "a"}\nnot JSON\n'  # bad.jsonl of docs/data.md

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)]


def code(page: Path) -> list[str]:
    """Code spans, and the lines of blocks that show no refusal."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = (line for block in blocks(page) if block.language != "console" for line in block.text.splitlines())
    return [*re.findall(r"`([^`]+)`", prose), *lines]


def commands(page: Path) -> list[str]:
    return [text for text in code(page) if text.startswith(f"{COMMAND} ")]


def refusals(page: Path) -> Iterator[tuple[str, str]]:
    """A command and what it prints."""
    for block in blocks(page):
        if block.language == "console":
            command, _, output = block.text.removeprefix("$ ").partition("\n")
            yield command, output


REFUSALS = [refusal for page in PAGES for refusal in refusals(page)]


def arguments_of(command: str) -> list[str]:
    """As the shell hands them over, without a redirection."""
    arguments = shlex.split(command.removeprefix(COMMAND), comments=True)
    return arguments[: arguments.index(">")] if ">" in arguments else arguments


def options(group: str) -> set[str]:
    return {file.stem for file in (config_directory() / group).glob("*.yaml")}


def table(page: str, heading: str) -> dict[str, list[str]]:
    """The rows of the table below a heading: what the first cell names -> the other cells."""
    section = (REPOSITORY / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [re.split(r"(?<!\\)\|", line.strip("|")) for line in section.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in row] for row in rows]
    return {name: rest for first, *rest in cells for name in re.findall(r"`([^`]+)`", first)}


@each_page
def test_every_command_composes(page: Path) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(config_directory())):
        for command in commands(page):
            arguments = arguments_of(command)
            args = get_args_parser().parse_args(for_hydra(arguments, sweep="-m" in arguments))
            if args.help or args.hydra_help:
                continue
            overrides = OverridesParser.create().parse_overrides(args.overrides)
            jobs = BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]
            assert len(jobs) == 1 or args.multirun, command
            for job in jobs:
                config = compose("config", list(job), return_hydra_config=True)
                HydraConfig.instance().set_config(config)
                assert cross_problems(to_config(config)) == [], command


def test_there_are_commands_and_refusals() -> None:
    assert all(commands(page) for page in PAGES if page.stem in ("README", "config", "data", "predict", "train"))
    assert len(REFUSALS) >= 5


@pytest.mark.parametrize(("command", "output"), REFUSALS, ids=[command for command, _ in REFUSALS])
def test_refusals_are_word_for_word(
    command: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("mindspore", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("tests", "examples"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "bad.jsonl").write_text(BAD_ROWS)
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dscoder_exp", *arguments_of(command)])
    assert main() == 2
    assert capsys.readouterr().err == output
    assert sorted(tmp_path.iterdir()) == before


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    relative = [link.partition("#")[0] for link in links if "://" not in link]
    assert [link for link in relative if not (page.parent / link).exists()] == []


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    named = {path for text in code(page) for path in re.findall(r"(?<![\w/])(?:tests|dscoder_exp)/[\w./]+\w", text)}
    named |= {f"dscoder_exp/{text}" for text in code(page) if re.fullmatch(r"(model|training|parallel)/\w+\.py", text)}
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


@each_page
def test_options_that_are_named_exist(page: Path) -> None:
    named = {found for text in code(page) for found in re.findall(rf"(?<![\w.])({'|'.join(GROUPS)})=(\w+)", text)}
    own = {("experiment", "mine")}  # the example of one outside the repository
    assert [f"{group}={option}" for group, option in named - own if option not in options(group)] == []


@each_page
def test_keys_that_are_named_exist(page: Path) -> None:
    pattern = rf"(?<![\w./-])((?:{'|'.join(GROUPS)}|hydra\.launcher)\.\w+)"
    named = {key for text in code(page) for key in re.findall(pattern, text)}
    keys = {*all_keys(), *(f"hydra.launcher.{item.name}" for item in fields(MsrunLauncherConf))}
    assert [key for key in named - keys if key.rpartition(".")[2] not in FILES] == []


def test_every_group_option_and_top_level_key_is_explained() -> None:
    rows = table("docs/config.md", "Groups")
    assert {group: set(re.findall(r"\w+", cells[0])) for group, cells in rows.items()} == {
        group: options(group) for group in GROUPS
    }
    assert set(table("docs/config.md", "Top-level keys")) == {item.name for item in fields(Config)} - set(GROUPS)


def test_every_runtime_key_is_explained_with_its_defaults() -> None:
    rows = table("docs/config.md", "Runtime")
    for place, runtime in enumerate(("cpu", "ascend")):
        with initialize_config_dir(version_base="1.3", config_dir=str(config_directory())):
            values = compose("config", [f"runtime={runtime}"]).runtime
        assert set(rows) == set(values)
        for key in ("device", "precision", "jit_level", "deterministic", "bind_core"):
            assert rows[key][place] == str(values[key]).replace("True", "true").replace("False", "false"), key


def test_every_launcher_option_is_explained() -> None:
    assert set(table("docs/config.md", "The launcher")) == {item.name for item in fields(MsrunLauncherConf)} - {
        "_target_"
    }


def test_every_task_is_in_the_readme() -> None:
    tasks = [re.search(r"task=(\w+)", command) for command in table("README.md", "Tasks")]
    assert {task[1] for task in tasks if task} == options("task")


def test_every_metric_is_explained_in_its_own_words() -> None:
    assert {name: cells[0] for name, cells in table("docs/tracking.md", "Metrics").items()} == METRICS


def test_every_figure_of_the_data_report_is_explained() -> None:
    assert set(table("docs/data.md", "What is written")) == {item.name for item in fields(DataReport)}


def test_every_prompt_format_is_explained() -> None:
    assert set(table("docs/data.md", "Prompt formats")) == set(TEMPLATES)
    assert set(table("docs/predict.md", "Which prompt format")) == {"auto", "FILE.jinja", *TEMPLATES}


def test_an_experiment_of_ones_own_composes(tmp_path: Path) -> None:
    [example] = [block for block in blocks(REPOSITORY / "docs/config.md") if block.language == "yaml"]
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(example.text)
    overrides = [f"hydra.searchpath=[file://{tmp_path}]", "+experiment=mine"]  # what --config-dir comes to
    with initialize_config_dir(version_base="1.3", config_dir=str(config_directory())):
        config = compose("config", overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        typed = to_config(config)
    assert (typed.name, typed.optim.lr, typed.train.max_steps) == ("mine", 1e-3, 3)


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [example] = [block for block in blocks(REPOSITORY / "README.md") if block.language == "python"]
    shutil.copytree(REPOSITORY / "tests" / "reference" / "tiny_gqa", tmp_path / "tests" / "reference" / "tiny_gqa")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(example.text, names)
    written = re.search(r"# (\d+\.\d+) nats", example.text)
    assert written
    assert names["llm"].loss(names["ids"], names["ids"]) == pytest.approx(float(written[1]), abs=5e-4)
