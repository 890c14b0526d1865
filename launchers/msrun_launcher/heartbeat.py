"""A task's signs of life, which hydra.launcher.heartbeat waits for."""

import os
from pathlib import Path

from msrun_launcher.exchange import JOB_VARIABLE, member_of, write_beat


def beat(done: str) -> None:
    """Tell the launcher what this rank has just done, such as "step 12"; outside of its workers this does nothing."""
    directory = os.environ.get(JOB_VARIABLE)
    if directory is not None:
        write_beat(Path(directory), member_of(int(os.environ.get("RANK_ID", "0"))), done)
