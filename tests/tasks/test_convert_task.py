"""task=convert on the command line: conversions and back, interruptions, refusals."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import CommandLine
from mlflow_runs import runs_in
from safetensors.numpy import load_file
from tasks_support import REFERENCE, Workspace, succeeded

from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.formats.hf_config import to_hf
from dscoder_exp.weights.formats.safetensors_file import safetensors_layout
from dscoder_exp.weights.names import parameter_shapes
from dscoder_exp.weights.source import open_weights

SOURCE = REFERENCE / "tiny_gqa"


def test_to_the_native_format_and_back(here_empty: CommandLine) -> None:
    cut = succeeded(
        here_empty(
            *["task=convert", f"weights.source={SOURCE}", "weights.target=cut", "weights.format=native"],
            "weights.tensor=4",
        )
    )
    target = here_empty.directory / "cut"
    assert f"source   {SOURCE} (hf): 21 tensors, 108,864 parameters, all found" in cut.out
    assert f"target   {target} (native, sharded over 4 ranks)" in cut.out
    assert len(list(target.glob("model-rank-*-of-04.safetensors"))) == 4
    succeeded(here_empty("task=convert", "weights.source=cut", "weights.target=back", "weights.format=hf"))
    back, original = (load_file(path / "model.safetensors") for path in (here_empty.directory / "back", SOURCE))
    assert back.keys() == original.keys()
    assert all(back[name].tobytes() == original[name].tobytes() for name in original)
    assert runs_in(here_empty.directory) == []

    again = here_empty("task=convert", "weights.source=cut", "weights.target=back")
    assert again.code == 2
    assert "weights.target: back exists already" in again.err


def test_to_mindspore_transformers_and_back(here_empty: CommandLine) -> None:
    """A .ckpt file doesn't contain the model's shape, so model.* overrides give it."""
    to = ["weights.format=mindformers", "weights.ckpt_format=ckpt"]
    succeeded(here_empty("task=convert", f"weights.source={SOURCE}", "weights.target=suite", *to))
    alone = here_empty.directory / "llama.ckpt"
    (here_empty.directory / "suite" / "model.ckpt").rename(alone)
    refused = here_empty("task=convert", "weights.source=llama.ckpt", "weights.target=back")
    assert refused.code == 2
    assert "weights.source: llama.ckpt: the files don't hold the model's shape" in refused.err
    config = json.loads((SOURCE / "config.json").read_text())
    names = [name for name in LlamaConfig.__dataclass_fields__ if config.get(name) is not None]
    shape = [f"model.{name}={json.dumps(config[name])}" for name in names]
    back = succeeded(here_empty("task=convert", "weights.source=llama.ckpt", "weights.target=back", *shape))
    assert (
        f"source   {here_empty.directory / 'llama.ckpt'} (mindformers): 21 tensors, 108,864 parameters, all found"
        in back.out
    )
    found, original = (load_file(path / "model.safetensors") for path in (here_empty.directory / "back", SOURCE))
    assert all(found[name].tobytes() == original[name].tobytes() for name in original)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 0.8 GB, in a sparse file."""
    directory = tmp_path_factory.mktemp("large")
    config = replace(open_weights(str(SOURCE)).config, vocab_size=100_000, hidden_size=1024)
    (directory / "config.json").write_text(json.dumps(to_hf(config)))
    layout = safetensors_layout({name: ("F32", shape) for name, shape in parameter_shapes(config).items()})
    with (directory / "model.safetensors").open("wb") as file:
        file.write(layout.headers[0][1])
        file.truncate(max(run.offset + run.size for entry in layout.entries.values() for run in entry.ranges))
    return directory


@pytest.mark.parametrize(
    "how", [signal.SIGINT, *(pytest.param(how, marks=pytest.mark.slow) for how in (signal.SIGTERM, signal.SIGKILL))]
)
def test_an_interrupted_conversion_leaves_no_target_and_can_be_repeated(
    empty_workspace: Workspace, here_empty: CommandLine, large: Path, how: signal.Signals
) -> None:
    command = ["task=convert", f"weights.source={large}", "weights.target=x", "weights.format=native"]
    started = empty_workspace.start(*command)
    started.wait_for(empty_workspace.directory / ".x.partial" / "model.safetensors")
    started.process.send_signal(how)
    ended = started.wait()
    assert ended.code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[how], ended.err
    assert not (empty_workspace.directory / "x").exists()
    assert (empty_workspace.directory / ".x.partial").exists() == (how == signal.SIGKILL)
    assert "Traceback" not in ended.err
    succeeded(here_empty(*command))
    assert not (empty_workspace.directory / ".x.partial").exists()
    assert (empty_workspace.directory / "x" / "checkpoint.json").is_file()


def test_all_problems_are_reported_and_nothing_is_written(here_empty: CommandLine) -> None:
    before = set(here_empty.directory.iterdir())
    refused = here_empty("task=convert", "weights.target=x", "weights.tensor=2", "weights.max_shard_size=big")
    assert refused.code == 2
    for words in (
        "weights.source: task=convert needs weights to read",
        "weights.tensor: 2, but only weights.format=native can be sliced over ranks, not hf",
        "weights.max_shard_size: 'big' is not a size",
    ):
        assert words in refused.err
    assert set(here_empty.directory.iterdir()) == before
    broken = here_empty.directory / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((SOURCE / "config.json").read_bytes())
    whole = (SOURCE / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[:-100])
    refused = here_empty("task=convert", f"weights.source={broken}", "weights.target=x")
    assert refused.code == 2
    assert "model.safetensors: not a readable safetensors file" in refused.err
    assert not Path(here_empty.directory / "x").exists()
