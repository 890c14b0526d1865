"""The fork server: one Python process with the modules loaded and the walls built, which forks for each program."""

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import struct
import sys
import traceback
from typing import Any, NoReturn

from dscoder_exp.evaluation.jail.walls import Limits, Walls
from dscoder_exp.evaluation.jail.watcher import Stopped, watch

# What programs and tests import: loaded once, by them then in no time
MODULES = """ast array bisect calendar cmath collections copy ctypes dataclasses datetime decimal enum fractions
    functools hashlib heapq inspect itertools json math numbers operator random re statistics string struct textwrap
    threading time traceback typing unittest unicodedata"""
REQUEST = struct.Struct("!Id")  # slot, seconds; with it come two descriptors, of the program and for its outcome


def main() -> NoReturn:
    """Serve the process at the other end of descriptor `control`, until that end is closed."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    control = socket.socket(fileno=settings["control"])
    try:
        walls = _prepared(settings)
    except OSError as error:
        control.sendall(json.dumps({"error": error.strerror or str(error)}).encode() + b"\n")
        os._exit(1)
    os.dup2(1, 2)  # to /dev/null, like the rest of what is written from here on
    control.sendall(json.dumps({"own_users": walls.own_users}).encode() + b"\n")
    serve(control, walls)
    _stop_watchers()
    walls.clear(settings["place"])
    os._exit(0)


def _stop_watchers() -> None:
    """End all programs, and wait for that."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)  # the watchers: what they start leads a session of its own
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def _prepared(settings: dict[str, Any]) -> Walls:
    for name in [*MODULES.split(), *settings["imports"]]:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # whoever imports it will hear so
    walls = Walls(settings["namespaces"], Limits(**settings["limits"]), tuple(settings["readable"]), settings["place"])
    walls.build()
    with contextlib.suppress(PermissionError):  # it leads a session, if it isn't bubblewrap that does
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # watchers need no waiting for
    gc.collect()
    gc.freeze()
    return walls


def serve(control: socket.socket, walls: Walls) -> None:
    """Fork a watcher for each request; returns when the other end is closed."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, REQUEST.size, 2)
        if len(data) < REQUEST.size or len(descriptors) < 2:
            return
        slot, seconds = REQUEST.unpack(data)
        program, outcome = descriptors
        if os.fork() == 0:
            _watch(control, program, outcome, slot, seconds, walls)
        for descriptor in descriptors:
            os.close(descriptor)


def _watch(control: socket.socket, payload: int, result: int, slot: int, seconds: float, walls: Walls) -> NoReturn:
    try:
        control.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        watch(payload, result, slot, seconds, walls)
    except Stopped:
        pass
    except BaseException:
        os.write(result, json.dumps({"fault": traceback.format_exc(limit=-1)[-500:]}).encode())
    os._exit(0)
