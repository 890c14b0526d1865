"""Programs that mean harm: none passes, harms, stalls others or outlives its verdict. Each is behind its own wall."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hostile_programs import EVERYWHERE, FAILS, HARMLESS

WALL, BEHIND = Path(__file__).with_name("wall.py"), Path(__file__).with_name("behind_wall.py")
SECONDS, PROCESSES = 90, 150  # of the wall: above all that a sandbox which holds needs
NO_WALL = 98

# What the sandbox has on a machine: its kind of walls, and the user that it is, "" for whoever runs the tests
ROOT, USER, NEITHER, USER_NEITHER = ("namespaces", ""), ("namespaces", "1000"), ("none", ""), ("none", "1000")
ALL = (ROOT, USER, NEITHER, USER_NEITHER)


def cases(names: Iterable[str]) -> list[Any]:
    found = [(name, walls) for name in names for walls in (ALL if name in EVERYWHERE else (ROOT, NEITHER))]
    return [
        pytest.param(*case, id=f"{case[0]} ({' '.join(case[1]).strip()})", marks=pytest.mark.slow) for case in found
    ]


def behind_wall(tmp_path: Path, code: str, held_by: tuple[str, str]) -> dict[str, Any]:
    walls, user = held_by
    tmp_path.chmod(0o755)
    asked = json.dumps({"code": dedent(code), "walls": walls, "directory": str(tmp_path)})
    command = [sys.executable, str(WALL), str(SECONDS), str(PROCESSES), user, sys.executable, str(BEHIND), asked]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + 30)
    if ended.returncode == NO_WALL:
        pytest.skip(f"this machine permits no wall around a hostile program: {ended.stderr}")
    assert ended.returncode == 0, f"the sandbox failed, and the wall held ({ended.returncode}): {ended.stderr[-2000:]}"
    found = json.loads(ended.stdout)
    assert found["isolation"].startswith("network, files" if walls == "namespaces" else "no namespaces"), found
    assert found["good"] == ["passed"] * 4, found
    assert not found["left"], found
    assert not found["connected"], found
    assert not found["written"], found
    assert "sandbox failed" not in found["message"], found
    assert "SECRET" not in found["message"], found
    return found


@pytest.mark.parametrize(("name", "held_by"), cases(FAILS))
def test_a_hostile_program_fails_and_harms_nobody(tmp_path: Path, name: str, held_by: tuple[str, str]) -> None:
    code, verdicts = FAILS[name]
    found = behind_wall(tmp_path, code, held_by)
    assert found["verdict"] in verdicts, found


@pytest.mark.parametrize(("name", "held_by"), cases(HARMLESS))
def test_what_a_program_does_beside_its_work_harms_nobody(tmp_path: Path, name: str, held_by: tuple[str, str]) -> None:
    found = behind_wall(tmp_path, HARMLESS[name], held_by)
    assert found["verdict"] in ("passed", "error"), found
