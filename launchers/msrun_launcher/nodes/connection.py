"""A connection between two launchers, and how what ends a job crosses it: in lines of JSON, see protocol.py."""

import contextlib
import json
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msrun_launcher.failures import WorkerFailed
from msrun_launcher.signals import Terminated

PATIENCE = 3.0  # seconds for one side to take what the other says
SILENCE = 20  # seconds after which a machine that doesn't answer is given up
LONGEST_LINE = 1 << 20  # bytes


class Peer:
    """A connection to another launcher."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""
        self.closed = False
        connection.settimeout(PATIENCE)
        for option, value in (
            (socket.TCP_KEEPIDLE, SILENCE // 4),
            (socket.TCP_KEEPINTVL, SILENCE // 4),
            (socket.TCP_KEEPCNT, 3),
            (socket.TCP_USER_TIMEOUT, SILENCE * 1000),
        ):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def send(self, what: str, **said: Any) -> None:
        with contextlib.suppress(OSError):  # it will be found closed
            self._connection.sendall(json.dumps({"what": what, **said}).encode() + b"\n")

    def received(self) -> Iterator[dict[str, Any]]:
        """What has come since it was last asked for. What isn't of this protocol closes it."""
        while not self.closed and select.select([self._connection], [], [], 0)[0]:
            try:
                content = self._connection.recv(1 << 16)
            except OSError:
                content = b""
            self._received += content
            self.closed = not content or len(self._received) > LONGEST_LINE
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            try:
                said = json.loads(line)
            except ValueError:
                said = None
            if not isinstance(said, dict) or "what" not in said:
                self.closed = True
                return
            yield said


def fields_of(failure: WorkerFailed) -> dict[str, Any]:
    place = str(failure.log) if failure.log is not None else None
    text = str(failure)
    if len(text) > LONGEST_LINE // 8:
        text = f"{text[: LONGEST_LINE // 16]}\n…\n{text[-LONGEST_LINE // 16 :]}"
    ago = time.monotonic() - failure.at
    return {"ago": ago, "rank": failure.rank, "text": text, "log": place, "hangs": failure.hangs}


def failure_of(said: dict[str, Any]) -> WorkerFailed:
    place = Path(said["log"]) if said["log"] is not None else None
    at = time.monotonic() - said["ago"]
    return WorkerFailed(said["text"], rank=said["rank"], log=place, at=at, hangs=said["hangs"])


def number_of(stop: BaseException) -> int:
    return stop.number if isinstance(stop, Terminated) else signal.SIGINT


def stop_of(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)
