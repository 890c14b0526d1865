"""make dashboard: the addresses that it prints, and the command that it becomes."""

import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest
from comparison_support import Compare, Store

from dscoder_exp import dashboard

Sweep = Callable[..., tuple[str, list[str]]]


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the process would have become."""
    calls: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda program, words: calls.append(list(words)))
    monkeypatch.setattr(sys, "argv", ["dashboard", "--port", "0"])
    return calls


def test_the_ui_is_started_on_the_right_store(
    compare: Compare, store: Store, sweep: Sweep, become: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    parent, _ = sweep({"seq_length": [128, 256]})
    dashboard.main()
    printed = capsys.readouterr().out
    [words] = become
    assert words[1:6] == ["-m", "mlflow", "ui", "--backend-store-uri", store.uri]
    address = f"http://127.0.0.1:{words[-1]}"
    assert f"sweep   {address}/#/experiments/{store.experiment}/runs/{parent} (demo, FINISHED)" in printed
    assert f"report  none yet: python -m dscoder_exp task=compare compare.sweep={parent}" in printed
    compare()
    capsys.readouterr()
    monkey: Any = sys
    monkey.argv = ["dashboard", "--port", "0"]
    dashboard.main()
    assert f"/runs/{parent}/artifacts/compare/compare.html\n" in capsys.readouterr().out


def test_a_port_in_use_is_left_alone(store: Store, compare: Compare, become: list[list[str]]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        sys.argv[2] = str(taken.getsockname()[1])
        dashboard.main()
    assert become[0][-1] != sys.argv[2]


def test_without_a_store_it_is_refused(
    compare: Compare, become: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert dashboard.main() == 2
    assert "there is no such file" in capsys.readouterr().err
    assert become == []
