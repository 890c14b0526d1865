"""The switch of .ci/run: a skipped test fails the run, and only then."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = "import pytest\ndef test_passes(): pass\n"
SKIPPED = TESTS + '@pytest.mark.skip(reason="no moon tonight")\ndef test_skipped(): pass\n'
EXPECTED_TO_FAIL = TESTS + "@pytest.mark.xfail\ndef test_fails(): assert False\n"


@pytest.mark.parametrize(
    ("tests", "switch", "code", "workers"),
    [
        pytest.param(SKIPPED, "1", 1, ["-n", "2"], marks=pytest.mark.slow),
        (SKIPPED, "1", 1, []),
        (SKIPPED, "0", 0, []),
        (EXPECTED_TO_FAIL, "1", 0, []),
    ],
    ids=["of two workers", "alone", "allowed", "expected to fail"],
)
def test_a_skip_fails_the_run_where_nothing_may_be_skipped(
    tmp_path: Path, tests: str, switch: str, code: int, workers: list[str]
) -> None:
    room = tmp_path / "tests" / "structure"
    room.mkdir(parents=True)
    shutil.copy(Path(__file__).parents[1] / "conftest.py", tmp_path / "tests")
    (room / "test_there.py").write_text(tests)
    (tmp_path / "tests" / "test_here.py").write_text(TESTS)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "--rootdir", tmp_path, *workers, "tests"],
        cwd=tmp_path,
        env=os.environ | {"DSCODER_NO_SKIP": switch},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == code, run.stdout + run.stderr
    assert ("1 skipped, so this run has failed" in run.stdout) == bool(code)
    assert ("no moon tonight" in run.stdout) == (tests == SKIPPED)
