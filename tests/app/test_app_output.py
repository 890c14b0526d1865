"""What the command prints, and how it ends, where its output or its disk can't take all."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from app_support import HERE

from dscoder_exp import app
from dscoder_exp.data import documents, mindrecord, prepare
from dscoder_exp.storage.disk_space import disk_full
from dscoder_exp.tracking.spool import LostRecords
from msrun_launcher import WorkerFailed


def shell(line: str, directory: Path, fakes: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A line of bash in which $RUN is the command."""
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "HYDRA_"))},
        "RUN": f"{sys.executable} -m dscoder_exp",
        "PYTHONPATH": os.pathsep.join([str(HERE / fakes), os.environ.get("PYTHONPATH", "")]),
        "HOME": str(directory),
        **environment,
    }
    return subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=directory, env=variables, capture_output=True)


@pytest.mark.parametrize("line", ["$RUN --help | head -1", "$RUN --cfg job | true", "$RUN --cfg job >&-"])
def test_information_that_nobody_reads(tmp_path: Path, line: str) -> None:
    ended = shell(line, tmp_path, "poison")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert len(ended.stdout.splitlines()) == ("head" in line)


def test_a_full_disk_behind_stdout(tmp_path: Path) -> None:
    for option in ("--help", "--cfg job"):
        ended = shell(f"$RUN {option} > /dev/full", tmp_path, "poison")
        assert (ended.returncode, ended.stderr.splitlines()[1]) == (
            1,
            b"  - <stdout>: can't be written: No space left on device",
        )


def test_an_encoding_without_the_characters(tmp_path: Path) -> None:
    ended = shell("$RUN --cfg job name=实验 predict.prompt=é", tmp_path, "poison", PYTHONIOENCODING="latin-1")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"\nname: ??\n" in ended.stdout
    assert "\n  prompt: é\n".encode("latin-1") in ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("task", ["train", "prepare"])  # in a process of its own, and in the launcher's
@pytest.mark.parametrize("how", ["| head -1", ">&-"])
def test_a_job_goes_on_when_nobody_reads(tmp_path: Path, small: list[str], task: str, how: str) -> None:
    arguments = " ".join([*small, f"task={task}", "name=print", "tracking=off", "output_dir=out"])
    ended = shell(f"$RUN {arguments} {how}", tmp_path, "fakes")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout == (b"" if "-" in how[2:] and "head" not in how else "数据 0\n".encode())
    assert (tmp_path / "printed").read_text() == "all"


def no_space(*arguments: Any, **named: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def no_free_disk(*arguments: Any) -> None:
    raise RuntimeError("Exception thrown from dataset pipeline. [ERROR] No free disk to be used, available: 1")


def with_holes(path: Path, *arguments: Any) -> None:
    """MindRecord fills the disk and says nothing."""
    path.touch()


@pytest.mark.parametrize(
    "how", [{"write": no_space}, {"write": no_free_disk}, {"write": with_holes, "is_full": True}, {"tokens": no_space}]
)
def test_a_disk_that_fills_up_while_data_is_prepared(
    how: dict[str, Any],
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(mindrecord, "write", how.get("write"))
    monkeypatch.setattr(prepare, "is_full", lambda directory: how.get("is_full", False))
    if "tokens" in how:
        monkeypatch.setattr(documents, "TemporaryFile", lambda **named: Mock(write=how["tokens"]))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["dscoder_exp", "task=prepare", *small, "data.output=它's/out"])
    assert app.main() == 1
    told = "dscoder_exp: failed\n  - data.output: 它's/out can't be written: No space left on device\n"
    assert capsys.readouterr().err.endswith(
        f"{told}      -> make room, or set data.output to a place on another disk\n"
    )
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["multirun"]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """failing(error, overrides) -> exit code and message of a command in which Hydra raises it."""

    def fail(error: Exception, *overrides: str) -> tuple[int, str]:
        def command() -> None:
            raise error

        monkeypatch.setattr(app.hydra, "main", lambda **named: lambda task: command)
        monkeypatch.setattr(sys, "argv", ["dscoder_exp", *overrides])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        return app.main(), capsys.readouterr().err

    return fail


def test_a_full_disk_is_one_message(failing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    full = disk_full(tmp_path / "out/checkpoints/step-000003", "output_dir")
    expected = (
        "dscoder_exp: failed\n  - output_dir: out/checkpoints/step-000003 can't be written: No space left on device"
    )
    expected += "\n      -> make room, or set output_dir to a place on another disk\n"
    assert (
        failing(full) == failing(WorkerFailed("rank 0 failed: …\n  Traceback …", rank=0, cause=full)) == (1, expected)
    )
    code, message = failing(OSError(errno.ENOSPC, "No space left on device"))  # such as Hydra's, of its own files
    assert (code, message.splitlines()[1]) == (1, f"  - {tmp_path}: can't be written: No space left on device")
    code, message = failing(OSError(errno.ENOSPC, "No space left on device"), "hydra.run.dir='/a b'")
    assert (code, message.splitlines()[1]) == (1, "  - /a b: can't be written: No space left on device")


def test_lost_metrics_are_one_message(failing: Any) -> None:
    lost = LostRecords("3 metrics of steps 1 to 3 were not logged to run 0a: [Errno 28] …: '/data/mlflow.db'")
    code, message = failing(WorkerFailed("rank 0 failed: …\n  Traceback …", rank=0, cause=lost))
    assert (code, message) == (1, f"dscoder_exp: failed\n  - {lost}\n")


def test_a_directory_that_would_be_an_interpolation(
    failing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "${x}").mkdir()
    monkeypatch.chdir(tmp_path / "${x}")
    code, message = failing(ValueError("not reached"))
    assert code == 2
    assert "as an interpolation\n      -> rename the directory" in message
