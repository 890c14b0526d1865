"""Starting the sandbox's fork server behind the strongest walls that this machine permits."""

import contextlib
import dataclasses
import json
import os
import shutil
import site
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dscoder_exp.evaluation.jail import landlock, seccomp
from dscoder_exp.evaluation.jail.server import REQUEST
from dscoder_exp.evaluation.jail.walls import SETTINGS, SYSTEM, Limits

WALLS = ("namespaces", "bubblewrap", "none")  # in the order in which they are tried
START_SECONDS = 60.0  # that a server may take until it is ready
_START = """
import json, sys
path = sys.path + json.loads(sys.argv[1])["packages"]
sys.path[:] = [json.loads(sys.argv[1])["source"], *path]
from dscoder_exp.evaluation.jail.server import main
sys.path[:] = path
main()
"""
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # the same program comes out the same
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


class Server:
    """The fork server's process.

    Attributes:
        namespaces: whether it is isolated by namespaces, its own or bubblewrap's.
    """

    def __init__(self, walls: str, limits: Limits, imports: Sequence[str]) -> None:
        """
        Raises:
            OSError: this machine doesn't permit these walls.
        """
        self.namespaces = walls != "none"
        readable = readable_paths()
        self._place = Path(tempfile.mkdtemp(prefix="dscoder-sandbox-"))
        self._place.chmod(0o711)  # a program's own user has to get to its directory below
        self._control, theirs = socket.socketpair()
        settings = {
            "control": theirs.fileno(),
            "namespaces": walls == "namespaces",
            "place": "/tmp" if walls == "bubblewrap" else str(self._place),
            "readable": readable,
            "limits": dataclasses.asdict(limits),
            "imports": imports,
            "packages": _packages(),
            "source": _source(),
        }
        command = [sys.executable, "-I", "-S", "-B", "-c", _START, json.dumps(settings)]
        if walls == "bubblewrap":
            command = _bubblewrap(readable) + command
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        options: dict[str, Any] = {"env": _ENVIRONMENT, "cwd": "/", "start_new_session": True, **quiet}
        with theirs:
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], **options)
        self.own_users = self._await_ready()
        if self.namespaces:
            self._place.rmdir()  # the server's root was mounted there, and is a root now

    def _await_ready(self) -> bool:
        self._control.settimeout(START_SECONDS)
        answer = b""
        with contextlib.suppress(OSError):
            while not answer.endswith(b"\n") and (part := self._control.recv(4096)):
                answer += part
        self._control.settimeout(None)
        assert self._process.stderr is not None
        told: dict[str, Any] = json.loads(answer) if answer.endswith(b"\n") else {}
        if "own_users" in told:
            self._process.stderr.close()
            return told["own_users"]
        self._process.kill()
        said = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        self.close()
        raise OSError(told.get("error") or (said[-1] if said else "it ended without a word"))

    def request(self, slot: int, seconds: float, program: int, outcome: int) -> None:
        """Have a program run; the descriptors are its file and the pipe for its outcome. Raises OSError: it is gone."""
        socket.send_fds(self._control, [REQUEST.pack(slot, seconds)], [program, outcome])

    def close(self) -> None:
        """End it, and with it all that it runs."""
        self._control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()
        shutil.rmtree(self._place, ignore_errors=True)


def start(allowed: Sequence[str], limits: Limits, imports: Sequence[str]) -> tuple[Server, str]:
    """A server behind the first of the allowed walls that can be had, and a sentence on what holds.

    Raises:
        RuntimeError: none can be had.
    """
    reasons: list[str] = []
    for walls in allowed:
        if walls == "bubblewrap" and shutil.which("bwrap") is None:
            continue
        try:
            server = Server(walls, limits, imports)
        except OSError as error:
            reasons.append(f"{walls}: {error}")
            continue
        return server, _isolation(walls, reasons, server.own_users)
    raise RuntimeError(f"the sandbox can't be started: {'; '.join(reasons)}")


def _isolation(walls: str, reasons: Sequence[str], own_users: bool) -> str:
    if walls != "none":
        return f"network, files and processes isolated ({walls})"
    version = landlock.version()
    holds = {
        "network": seccomp.supported() and "closed by a filter of system calls",
        "files": bool(version) and "by Landlock",
        "processes": (own_users and "by a user of their own")
        or ((version >= landlock.SIGNALS_SINCE or seccomp.supported()) and "protected from signals"),
    }
    told = ", ".join(f"{what} {how or 'not isolated'}" for what, how in holds.items())
    return f"no namespaces here ({'; '.join(reasons) or 'not tried'}): {told}"


def readable_paths() -> list[str]:
    """What a program may read: this Python, installed packages, the system's programs and libraries.

    The directories of a virtual environment that hold packages, not the environment's own, which may hold a project.
    """
    prefixes = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.base_exec_prefix)}
    found = {*SYSTEM, *(f"/etc/{name}" for name in SETTINGS), *_packages()}
    found |= {str(prefix / part) for prefix in prefixes for part in ("bin", "lib", "lib64", "pyvenv.cfg")}
    found |= {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), sys.executable}
    found |= {os.path.realpath(path) for path in found}
    kept: list[str] = []
    for path in sorted(filter(os.path.lexists, found), key=len):
        if not any(path.startswith(f"{above}/") for above in kept):
            kept.append(path)
    return kept


def _packages() -> list[str]:
    users = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [path for path in [*site.getsitepackages(), *users] if os.path.isdir(path)]


def _source() -> str:
    """The directory that holds this package."""
    return str(Path(__file__).resolve().parents[2])


def _bubblewrap(readable: Sequence[str]) -> list[str]:
    command = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--die-with-parent", "--hostname", "sandbox"]
    command += ["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--chdir", "/tmp"]
    for path in [*readable, os.path.join(_source(), "dscoder_exp")]:
        command += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind", path, path]
    return [*command, "--"]
