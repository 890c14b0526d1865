"""A connection between the launchers of two nodes, which exchange lines of JSON; protocol.py lists the messages."""

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

TIMEOUT = 3.0  # seconds to connect, to send a message, and for node 0 to answer a report
KEEPALIVE = 20  # seconds after which the connection to a machine that doesn't respond is closed
MAX_LINE = 1 << 20  # bytes


class Peer:
    """A connection to another node's launcher. closed: it was closed, or the peer doesn't speak this protocol."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        self.closed = False
        connection.settimeout(TIMEOUT)
        for option, value in (
            (socket.TCP_KEEPIDLE, KEEPALIVE // 4),
            (socket.TCP_KEEPINTVL, KEEPALIVE // 4),
            (socket.TCP_KEEPCNT, 3),
            (socket.TCP_USER_TIMEOUT, KEEPALIVE * 1000),
        ):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def send(self, kind: str, **fields: Any) -> None:
        with contextlib.suppress(OSError):  # `receive` will find the connection closed
            self._connection.sendall(json.dumps({"kind": kind, **fields}).encode() + b"\n")

    def receive(self) -> Iterator[dict[str, Any]]:
        """The messages that have arrived since the last call, without waiting. An invalid one closes the connection."""
        while not self.closed and select.select([self._connection], [], [], 0)[0]:
            try:
                content = self._connection.recv(1 << 16)
            except OSError:
                content = b""
            self._buffer += content
            self.closed = not content or len(self._buffer) > MAX_LINE
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if not isinstance(message, dict) or "kind" not in message:
                self.closed = True
                return
            yield message


def encode_failure(failure: WorkerFailed) -> dict[str, Any]:
    """The fields of a message that reports a failure; a long text loses its middle."""
    log = str(failure.log) if failure.log is not None else None
    text = str(failure)
    if len(text) > MAX_LINE // 8:
        text = f"{text[: MAX_LINE // 16]}\n…\n{text[-MAX_LINE // 16 :]}"
    ago = time.monotonic() - failure.at
    return {"ago": ago, "rank": failure.rank, "text": text, "log": log, "hangs": failure.hangs}


def decode_failure(message: dict[str, Any]) -> WorkerFailed:
    log = Path(message["log"]) if message["log"] is not None else None
    at = time.monotonic() - message["ago"]
    return WorkerFailed(message["text"], rank=message["rank"], log=log, at=at, hangs=message["hangs"])


def signal_number(stop: BaseException) -> int:
    """The signal that raised this KeyboardInterrupt or Terminated."""
    return stop.number if isinstance(stop, Terminated) else signal.SIGINT


def stop_exception(number: int) -> BaseException:
    """The exception that this signal raises in a launcher."""
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)
