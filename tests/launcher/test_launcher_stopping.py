"""Signals to the launcher: no process is left afterwards, and the scheduler's port is free."""

import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_launcher(
    start: Any, tmp_path: Path, number: signal.Signals, ranks: int, free_port: Any
) -> None:
    started, port = tmp_path / "started", free_port()
    launch = start(
        "app.py",
        "-m",
        "how=children,ok",
        f"ranks={ranks}",
        f"started={started}",
        f"hydra.launcher.master_port={port}",
        "hydra.launcher.lifecycle=recorder.Recorder",
    )
    launch.wait_for(started)
    assert len(launch.living()) >= ranks + 1
    launch.process.send_signal(number)
    code, output = launch.finish()
    assert code == {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}[number], output
    assert launch.left() == []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
    assert not list(tmp_path.glob("msrun-*"))
    record = (tmp_path / "record.txt").read_text().splitlines()
    if number == signal.SIGKILL:
        assert record[-1] == "before_job 0"
    else:
        name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        assert record[-2:] == [f"after_job 0 killed rank=None stopped by {name}", "after_launch killed"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_child_that_a_worker_starts_while_it_is_stopped_is_killed_too(start: Any, tmp_path: Path, ranks: int) -> None:
    started = tmp_path / "started"
    launch = start("app.py", "how=child_at_exit", f"ranks={ranks}", f"started={started}")
    launch.wait_for(started)
    launch.process.send_signal(signal.SIGTERM)
    code, output = launch.finish()
    assert code == 143, output
    assert (tmp_path / f"exited-{ranks - 1}").exists()
    assert launch.left() == []


def test_a_failed_worker_that_is_stopped_while_it_exits_prints_nothing(start: Any) -> None:
    code, output = start("app.py", "how=raise_and_linger").finish()
    assert code == 1
    assert output.count("Traceback") == 1
    assert "Exception ignored" not in output


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_background_job_ignores_ctrl_c_but_not_other_signals(
    start: Any, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """A script's background jobs, and their children, inherit SIGINT as ignored."""
    started = tmp_path / "started"
    launch = start(
        "app.py", "how=children", f"started={started}", "hydra.launcher.lifecycle=recorder.Recorder", interrupts=False
    )
    launch.wait_for(started)
    launch.process.send_signal(signal.SIGINT)
    launch.process.send_signal(number)
    assert launch.finish()[0] == code
    assert launch.left() == []
    record = (tmp_path / "record.txt").read_text().splitlines()
    assert record[-2:] == [f"after_job 0 killed rank=None stopped by {number.name}", "after_launch killed"]


def test_a_second_ctrl_c_does_not_wait_for_a_stubborn_worker(start: Any, tmp_path: Path) -> None:
    started = tmp_path / "started"
    launch = start("app.py", "how=stubborn", f"started={started}", "hydra.launcher.grace=1000")
    launch.wait_for(started)
    while launch.process.poll() is None and launch.age() < 30:
        launch.process.send_signal(signal.SIGINT)  # the first stops the job, a later one skips the grace period
        time.sleep(0.3)
    assert launch.process.poll() == -signal.SIGINT
    assert launch.left() == []
