"""A spare worker: started before its job is ready, so that it imports modules while the launcher prepares the job."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

from msrun_launcher.exchange import search_path

WORKER = Path(__file__).parents[1] / "worker" / "main.py"
_spare: Optional[subprocess.Popen[bytes]] = None


def warm_up(modules: Sequence[str]) -> None:
    """Start the spare worker, which imports `modules` and then waits for the first single-rank job.

    Call it from before_launch, once it is known that the first job runs in one plain process. At import the modules
    must not read anything that the job sets, such as environment variables.
    """
    global _spare
    _stop()
    _spare = subprocess.Popen([sys.executable, "-P", str(WORKER)], stdin=subprocess.PIPE, start_new_session=True)
    _send(_spare, {"sys_path": search_path(os.getcwd()), "modules": list(modules)})


def take(directory: Path) -> Optional[subprocess.Popen[bytes]]:
    """Give the spare worker the job of this exchange directory and return the worker; None if there is no live one."""
    global _spare
    worker, _spare = _spare, None
    if worker is None or worker.poll() is not None:
        return None
    _send(worker, {"directory": str(directory), "cwd": os.getcwd(), "environment": dict(os.environ)})
    assert worker.stdin is not None
    worker.stdin.close()
    return worker


@contextlib.contextmanager
def stopped_on_exit() -> Iterator[None]:
    """Kill a spare worker that no job has taken when the block ends."""
    try:
        yield
    finally:
        _stop()


def _stop() -> None:
    global _spare
    worker, _spare = _spare, None
    if worker is not None:
        worker.kill()
        worker.communicate()


def _send(worker: subprocess.Popen[bytes], message: dict[str, object]) -> None:
    assert worker.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has died: Watch will notice
        worker.stdin.write(json.dumps(message).encode() + b"\n")
        worker.stdin.flush()
