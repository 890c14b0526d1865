"""Messages between the process of a program and the process of its tests: JSON behind its length."""

import contextlib
import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!I")


class Ended(BaseException):
    """The other side is gone. No `except Exception` of the tests is to take it for the program's error."""


class TooLarge(BaseException):
    """A message is larger than the limit."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a value of {size >> 20} MiB is more than the {limit >> 20} that may be sent")


class Connection:
    """One end of a stream of messages.

    limit: bytes of one message
    """

    def __init__(self, stream: socket.socket, limit: int) -> None:
        self._stream, self._limit = stream, limit

    def send(self, message: Any) -> None:
        """Raises Ended, TooLarge (nothing was sent), and RecursionError for what is nested too deeply."""
        data = json.dumps(message, separators=(",", ":")).encode()
        if len(data) > self._limit:
            raise TooLarge(len(data), self._limit)
        try:
            self._stream.sendall(_LENGTH.pack(len(data)) + data)
        except OSError:
            raise Ended from None

    def receive(self) -> Any:
        """Raises Ended, TooLarge, and ValueError or RecursionError for what isn't a message."""
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > self._limit:
            raise TooLarge(length, self._limit)
        return json.loads(self._read(length))

    def _read(self, length: int) -> bytes:
        data = bytearray()
        with contextlib.suppress(OSError):
            while len(data) < length and (part := self._stream.recv(min(length - len(data), 1 << 20))):
                data += part
        if len(data) < length:
            raise Ended
        return bytes(data)
