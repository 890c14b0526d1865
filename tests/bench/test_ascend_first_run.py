"""The first run on an Atlas server, where there is none: it is refused, and its steps run on the CPU."""

import importlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from kernels import share_kernels

from dscoder_exp.app import config_directory
from dscoder_exp.schema.check import to_config
from dscoder_exp.schema.cross import cross_problems
from dscoder_exp.schema.overrides import for_hydra

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "ascend_first_run.py"


def first_run(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), **variables}
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.skipif(any(Path("/dev").glob("davinci[0-9]*")), reason="there is an NPU here")
def test_without_an_npu_one_message_says_so(tmp_path: Path) -> None:
    ended = first_run(tmp_path)
    assert ended.returncode == 2
    assert "ascend needs 1 NPU, one per rank, and this machine has none" in ended.stderr
    assert "DEVICE=cpu" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_exists_and_a_step_that_doesn_t_are_refused(tmp_path: Path) -> None:
    for arguments, message in (
        (["--output", str(tmp_path)], f"{tmp_path} exists"),
        (["--only", "trian"], "called trian"),
    ):
        ended = first_run(tmp_path, "--device", "cpu", *arguments)
        assert ended.returncode == 2
        assert message in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("device", ["ascend", "cpu"])
def test_every_step_composes(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a card a misspelt key would cost one of the first minutes."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    steps = importlib.import_module("_first_run_plan").plan(device, tmp_path)
    commands = [step.command[3:] for step in steps if step.command[1:3] == ["-m", "dscoder_exp"]]
    assert len(commands) == 7
    with initialize_config_dir(version_base="1.3", config_dir=str(config_directory())):
        for overrides in commands:
            config = compose("config", for_hydra(overrides, sweep=False), return_hydra_config=True)
            HydraConfig.instance().set_config(config)
            assert cross_problems(to_config(config)) == [], overrides
    assert all(step.needs is None or step.needs in [earlier.name for earlier in steps] for step in steps)


def test_a_step_that_takes_too_long_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    run = importlib.import_module("ascend_first_run")._run
    step = importlib.import_module("_first_run_plan").Step(
        "hangs", "", ["sh", "-c", "echo $$; sleep 600 & wait"], 1, lambda text: ""
    )
    outcome = run(step, tmp_path)
    assert (outcome.verdict, outcome.message, outcome.completed) == ("FAILED", "still running after 1 s", False)
    group = (tmp_path / "hangs.log").read_text().splitlines()[1]
    stats = [path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat")]
    assert [state for state, _, its_group, *_ in stats if its_group == group and state != "Z"] == []


def members(packed: Path) -> dict[str, str]:
    with tarfile.open(packed) as archive:
        files = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        return {name.partition("/")[2]: file.read().decode() for name, file in files.items() if file is not None}


@pytest.mark.slow
def test_steps_run_on_the_cpu_and_are_packed_without_secrets(tmp_path: Path) -> None:
    """`resume` brings what it needs: `reference` and `train`."""
    share_kernels(tmp_path / "cache")
    variables = {"HCCL_CONNECT_TIMEOUT": "1800", "MS_TOKEN": "not-to-be-sent", "HF_TOKEN": "nor this"}
    ended = first_run(
        tmp_path, "--device", "cpu", "--output", "out", "--only", "own_check", "parity", "resume", **variables
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    packed = members(tmp_path / "out.tar.gz")
    rows = [line.split(" | ") for line in packed["summary.md"].splitlines() if " | held | " in line]
    assert [row[0] for row in rows] == ["| own_check", "| parity", "| reference", "| train", "| resume"]
    assert "the same bits in model.safetensors and optimizer.safetensors" in rows[-1][-1]
    assert "HCCL_CONNECT_TIMEOUT=1800" in packed["machine.md"]
    assert "mindspore" in packed["machine.md"]
    assert not [name for name, text in packed.items() if "not-to-be-sent" in text or "nor this" in text]
    assert {Path(name).suffix for name in packed} <= {".log", ".md", ".yaml", ".json"}


@pytest.mark.slow
def test_a_step_that_fails_is_reported_and_steps_that_need_it_are_left_out(tmp_path: Path) -> None:
    """The prepared data can't be written."""
    (tmp_path / "cache").write_text("a file where the cache belongs")
    ended = first_run(tmp_path, "--device", "cpu", "--output", "out", "--only", "lora")
    assert ended.returncode == 1
    summary = members(tmp_path / "out.tar.gz")["summary.md"]
    assert "| reference | 8 steps on this machine's CPU, fp32 | FAILED | " in summary
    assert "exit code 2; " in summary
    assert "| lora | LoRA | left out | 0 | reference didn't complete |" in summary
