"""stdout and stderr that may be closed, lose their reader (`| head`), or lack characters, without a traceback."""

import io
import logging
import os
import sys
from typing import Any, Optional


class Output(io.TextIOWrapper):
    """A standard stream. What is written after its reader has left is dropped; so is what C++ writes there."""

    @property
    def reader_left(self) -> bool:
        raw: Any = self.buffer.raw  # type: ignore[attr-defined]
        return raw.reader_left


class _Descriptor(io.FileIO):
    reader_left = False

    def write(self, data: Any) -> Optional[int]:  # type: ignore[override]
        try:
            return super().write(data)
        except BrokenPipeError:
            self.reader_left = True
            _to_null(self.fileno())
            return memoryview(data).nbytes
        except OSError as error:
            _to_null(self.fileno())  # for what is still buffered
            name = {1: "<stdout>", 2: "<stderr>"}.get(self.fileno(), str(self.fileno()))
            raise OSError(error.errno, error.strerror, name) from error


def protect() -> None:
    """Replace this process's stdout and stderr by `Output`s; called again, it changes nothing.

    A standard descriptor that is closed (`>&-`) becomes /dev/null: else the next file opened would take its number, and
    what is printed would be written into that file. A character that the encoding lacks is replaced. A log file that
    can't be written is no error.
    """
    logging.raiseExceptions = False  # it would print a traceback for each record
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            _to_null(descriptor)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # it was closed when Python began
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _protected(stream, descriptor))


def _protected(stream: io.TextIOWrapper, descriptor: int) -> Output:
    stream.flush()
    return Output(
        io.BufferedWriter(_Descriptor(descriptor, "w", closefd=False)),
        stream.encoding,
        "replace" if stream.errors == "strict" else stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _to_null(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null == descriptor:
        os.set_inheritable(null, True)
    else:
        os.dup2(null, descriptor)
        os.close(null)
