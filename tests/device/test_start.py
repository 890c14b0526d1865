"""What a process is given before MindSpore starts, and how it is started."""

import os

import mindspore as ms
import pytest

from dscoder_exp.device.start import set_environment, start_device
from dscoder_exp.llm import load
from dscoder_exp.model import compiled
from dscoder_exp.model.compiled import CompiledFunction
from dscoder_exp.schema.errors import Refused

STARTER = 1  # the process that the ranks were started by


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Empty, and put back in the end."""
    for name in list(os.environ):
        monkeypatch.delenv(name)


@pytest.fixture
def cores(monkeypatch):
    """cores(own=4, starters=16): that this process, and the one that started it, may run on."""

    def have(own, starters):
        monkeypatch.setattr(os, "getppid", lambda: STARTER)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(starters if pid == STARTER else own)))

    return have


def test_npus_wait_for_each_other_half_an_hour_unless_the_user_says_otherwise(monkeypatch):
    set_environment()
    assert os.environ["HCCL_CONNECT_TIMEOUT"] == "1800"
    monkeypatch.setenv("HCCL_CONNECT_TIMEOUT", "7200")
    set_environment()
    assert os.environ["HCCL_CONNECT_TIMEOUT"] == "7200"


@pytest.mark.parametrize(
    ("own", "starters", "ranks", "threads"),
    [
        (16, 16, 4, "4"),  # nobody is bound
        (4, 16, 4, "4"),  # msrun has bound each rank to its share
        (2, 16, 4, "2"),  # the user has, to less
        (2, 2, 4, "1"),
    ],
)
def test_cores_are_shared_out_once(cores, own, starters, ranks, threads):
    cores(own=own, starters=starters)
    set_environment(ranks=ranks)
    assert os.environ["OMP_NUM_THREADS"] == threads


def test_a_rank_alone_has_all_cores_and_threads_win(cores):
    cores(own=4, starters=16)
    set_environment()
    assert "OMP_NUM_THREADS" not in os.environ
    set_environment(threads=3, ranks=2)
    assert os.environ["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(("given", "level"), [({}, "O0"), ({"jit_level": "O1"}, "O1")])
def test_units_are_compiled_at_the_level_that_was_asked_for(monkeypatch, given, level):
    levels = []
    monkeypatch.setattr(compiled.ms, "jit", lambda function, jit_level: levels.append(jit_level))
    start_device("cpu", **given)
    CompiledFunction(len, "a unit", lambda name: None, waits=False)
    start_device("cpu")
    assert levels == [level]


@pytest.mark.parametrize(
    ("device", "deterministic", "asked"), [("ascend", True, [True]), ("ascend", False, []), ("cpu", True, [])]
)
def test_npus_alone_are_asked_to_be_deterministic(monkeypatch, device, deterministic, asked):
    calls = []
    monkeypatch.setattr(ms, "set_context", lambda **context: None)
    monkeypatch.setattr(ms, "set_deterministic", calls.append)
    start_device(device, deterministic=deterministic)
    assert calls == asked


@pytest.mark.parametrize(("device", "precision"), [("ascend", "fp32"), ("cpu", "bf16")])
def test_a_precision_that_the_device_lacks_is_refused_before_anything_is_read(device, precision):
    with pytest.raises(Refused, match=f"runtime.precision: {precision} has no "):
        load("nowhere", precision, device)
