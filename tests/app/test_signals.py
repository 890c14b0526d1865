"""Deferring signals during steps that must not be cut short, and ending at once."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from dscoder_exp.signals import ends_at_once, uninterrupted
from msrun_launcher.exchange import JOB_VARIABLE


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Python's default handlers: in a background job of a shell script, which the tests may be, Ctrl-C is ignored."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_ctrl_c_waits_for_the_end_of_the_step() -> None:
    done = []

    @uninterrupted()
    def step() -> None:
        signal.raise_signal(signal.SIGINT)
        done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        step()
    assert done == ["all of it"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_takes_effect_at_once() -> None:
    done = []

    @uninterrupted()
    def step() -> None:
        signal.raise_signal(signal.SIGINT)
        done.append("the first half")
        signal.raise_signal(signal.SIGINT)
        done.append("the second")

    with pytest.raises(KeyboardInterrupt):
        step()
    assert done == ["the first half"]


def test_sigterm_reaches_its_handler_afterwards() -> None:
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            assert received == []
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_errors_pass_through_and_ignored_signals_stay_ignored() -> None:
    @uninterrupted()
    def step() -> None:
        signal.raise_signal(signal.SIGINT)
        raise ValueError("boom")

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(ValueError, match="boom"):
            step()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_unaffected() -> None:
    passed = []

    def step() -> None:
        with uninterrupted():
            passed.append(True)

    thread = threading.Thread(target=step)
    thread.start()
    thread.join()
    assert passed == [True]


def test_in_a_worker_sigterm_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def handler(number: int, frame: object) -> None: ...

    signal.signal(signal.SIGTERM, handler)
    with ends_at_once():
        assert signal.getsignal(signal.SIGTERM) is handler  # not a worker
    monkeypatch.setenv(JOB_VARIABLE, "somewhere")
    with ends_at_once(), ends_at_once():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is handler
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with ends_at_once():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


STOPPED = """
import sys, threading, time, types
sys.modules["dscoder_exp.app"] = app = types.ModuleType("app")
def main():
    threading.Thread(target=time.sleep, args=(60,)).start()  # as the one that imports MindSpore
    print("all that was printed")
    {end}
app.main = main
from dscoder_exp.__main__ import start
start()
"""


@pytest.mark.parametrize(
    ("end", "code"), [("raise KeyboardInterrupt", 130), ("raise SystemExit(143)", 143), ("return 1", 1)]
)
def test_a_command_that_fails_or_is_stopped_waits_for_no_thread(end: str, code: int) -> None:
    script = STOPPED.format(end=end)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (code, "all that was printed\n", "")
