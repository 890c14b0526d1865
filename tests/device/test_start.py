"""The environment variables set before MindSpore starts, and starting it."""

import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import pytest

from dscoder_exp.device.start import set_environment, start_device
from dscoder_exp.llm import load
from dscoder_exp.model import compiled
from dscoder_exp.model.compiled import CompiledFunction
from dscoder_exp.schema.errors import Refused

FAILS = """
import sys
from pathlib import Path
from dscoder_exp.device.start import set_environment, start_device
set_environment(reports=Path(sys.argv[1]))
import mindspore as ms
from mindspore import ops
start_device("cpu")
def fails(x):
    return ops.MatMul()(x, x)
try:
    ms.jit(fails)(ops.ones((2, 3)))
except ValueError:
    sys.exit(0)
sys.exit(1)
"""
PARENT = 1  # process id of the ranks' parent


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """An empty environment; monkeypatch restores it."""
    for name in list(os.environ):
        monkeypatch.delenv(name)


@pytest.fixture
def cores(monkeypatch):
    """cores(own=4, parents=16): set the number of cores that this process and its parent may run on."""

    def have(own, parents):
        monkeypatch.setattr(os, "getppid", lambda: PARENT)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(parents if pid == PARENT else own)))

    return have


def test_the_connection_timeout_is_half_an_hour_unless_the_user_sets_it(monkeypatch):
    set_environment()
    assert os.environ["HCCL_CONNECT_TIMEOUT"] == "1800"
    monkeypatch.setenv("HCCL_CONNECT_TIMEOUT", "7200")
    set_environment()
    assert os.environ["HCCL_CONNECT_TIMEOUT"] == "7200"


@pytest.mark.parametrize(
    ("own", "parents", "ranks", "threads"),
    [
        (16, 16, 4, "4"),  # not bound to cores
        (4, 16, 4, "4"),  # msrun has bound each rank to its share
        (2, 16, 4, "2"),  # the user has bound each rank to fewer
        (2, 2, 4, "1"),
    ],
)
def test_cores_are_divided_over_the_ranks_once(cores, own, parents, ranks, threads):
    cores(own=own, parents=parents)
    set_environment(ranks=ranks)
    assert os.environ["OMP_NUM_THREADS"] == threads


def test_one_rank_has_all_cores_and_threads_win_over_ranks(cores):
    cores(own=4, parents=16)
    set_environment()
    assert "OMP_NUM_THREADS" not in os.environ
    set_environment(threads=3, ranks=2)
    assert os.environ["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(("given", "level"), [({}, "O0"), ({"jit_level": "O1"}, "O1")])
def test_functions_are_compiled_at_the_requested_level(monkeypatch, given, level):
    levels = []
    monkeypatch.setattr(compiled.ms, "jit", lambda function, jit_level: levels.append(jit_level))
    start_device("cpu", **given)
    CompiledFunction(len, "a function", lambda name: None, waits=False)
    start_device("cpu")
    assert levels == [level]


@pytest.mark.parametrize(
    ("device", "deterministic", "asked"), [("ascend", True, [True]), ("ascend", False, []), ("cpu", True, [])]
)
def test_only_npus_are_set_to_be_deterministic(monkeypatch, device, deterministic, asked):
    calls = []
    monkeypatch.setattr(ms, "set_context", lambda **context: None)
    monkeypatch.setattr(ms, "set_deterministic", calls.append)
    start_device(device, deterministic=deterministic)
    assert calls == asked


def test_fp32_on_an_npu_is_refused_before_reading_the_model():
    with pytest.raises(Refused, match=r"runtime\.precision: fp32 has no "):
        load("nowhere", "fp32", "ascend")


def test_what_mindspore_reports_lies_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(reports=tmp_path / "run" / "mindspore")
    assert os.environ["MS_OM_PATH"] == os.environ["MS_COMPILER_CACHE_PATH"] == f"{tmp_path}/run/mindspore"
    monkeypatch.setenv("MS_OM_PATH", "mine")
    set_environment(reports=tmp_path)
    assert os.environ["MS_OM_PATH"] == "mine"


@pytest.mark.slow
def test_a_function_that_cannot_be_compiled_leaves_nothing_in_the_current_directory(tmp_path: Path) -> None:
    here, reports = tmp_path / "here", tmp_path / "run" / "mindspore"
    here.mkdir()
    (here.parent / "fails.py").write_text(FAILS)
    command = [sys.executable, str(here.parent / "fails.py"), str(reports)]
    subprocess.run(command, cwd=here, check=True, capture_output=True, env={"PYTHONPATH": os.pathsep.join(sys.path)})
    assert list(here.iterdir()) == []
    assert (reports / "rank_0" / "om" / "analyze_fail.ir").is_file()
