"""Landlock: which files a process may use, without privileges or namespaces. In Linux 5.13 where it is switched on."""

import ctypes
import os
import struct
from collections.abc import Iterable

from dscoder_exp.evaluation.jail import linux

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on all architectures
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIRECTORY = 1, 2, 4, 8
_TRUNCATE = 1 << 14
_ALL = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # rights to files by the first version
_CONNECTIONS = 3  # bind and connect by TCP, from version 4 on
_ABSTRACT_SOCKETS, _SIGNALS = 1, 2  # to processes outside, from version 6 on
SIGNALS_SINCE = 6


def version() -> int:
    """The kernel's version of Landlock, 0 where there is none."""
    return max(0, linux.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(1)))


def restrict(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Leave this process and what it starts only these files and directories; needs PR_SET_NO_NEW_PRIVS.

    With version 6 signals reach no process outside, either. A path that doesn't exist is left out.

    Raises:
        OSError: it couldn't be done.
    """
    abi = version()
    rights = next(_ALL[first] for first in sorted(_ALL, reverse=True) if first <= abi)
    attributes = struct.pack("QQQ", rights, _CONNECTIONS, _ABSTRACT_SOCKETS | _SIGNALS)
    size = 24 if abi >= SIGNALS_SINCE else 16 if abi >= 4 else 8
    made = linux.checked_syscall("landlock", _CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint(0))
    try:
        for path in readable:
            _allow(made, path, _EXECUTE | _READ_FILE | _READ_DIRECTORY)
        for path in writable:
            _allow(made, path, rights)
        linux.checked_syscall("landlock", _RESTRICT_SELF, made, ctypes.c_uint(0))
    finally:
        os.close(made)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(path):
            rights &= _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
        rule = struct.pack("=Qi", rights, place)
        linux.checked_syscall(f"landlock {path}", _ADD_RULE, ruleset, 1, rule, ctypes.c_uint(0))
    finally:
        os.close(place)
