"""The wall that hostile tests run behind, tried with harmless programs."""

import subprocess
import sys
from pathlib import Path

import pytest

WALL = Path(__file__).with_name("wall.py")
SLEEPERS = """
import subprocess, sys
children = []
try:
    for _ in range(50):
        children.append(subprocess.Popen(["sleep", "60"]))
except OSError as error:
    print(len(children), "started:", error.strerror)
"""


def walled(seconds: float, processes: int, user: str, *command: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, str(WALL), str(seconds), str(processes), user, *command]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("user", ["", "1000"])
def test_fifty_sleeping_children_are_too_many_for_a_wall_of_twenty(user: str) -> None:
    ended = walled(30, 20, user, sys.executable, "-S", "-c", SLEEPERS)
    assert ended.returncode == 97 or "Resource temporarily unavailable" in ended.stdout, ended


@pytest.mark.parametrize("user", ["", "1000"])
def test_the_wall_ends_a_command_at_its_time_with_all_that_it_started(user: str) -> None:
    token = "3600.25"
    ended = walled(0.5, 20, user, "sh", "-c", f"setsid sleep {token} & sleep {token}")
    assert ended.returncode == 97, ended
    assert token not in subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True).stdout


def test_a_command_sees_no_process_but_its_own_and_its_exit_code_is_passed_on() -> None:
    ended = walled(30, 20, "", "sh", "-c", "ls -d /proc/[0-9]* | wc -l; id -u; exit 5")
    assert ended.returncode == 5, ended
    assert int(ended.stdout.split()[0]) <= 4, ended
