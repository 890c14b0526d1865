"""Heartbeats of a task, which hydra.launcher.heartbeat watches."""

import os
from pathlib import Path

from msrun_launcher.exchange import JOB_VARIABLE, member_of, write_heartbeat


def beat(done: str) -> None:
    """Send a heartbeat that names what this rank has just done, e.g. "step 12". No effect outside a worker."""
    directory = os.environ.get(JOB_VARIABLE)
    if directory is not None:
        write_heartbeat(Path(directory), member_of(int(os.environ.get("RANK_ID", "0"))), done)
