"""What the benches ask of the machine and of their subprocesses. No package is needed: PyTorch's side uses it too."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def machine() -> str:
    """The CPU's name, and how many cores this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def peak_memory() -> int:
    """The most bytes that this process held in memory; getrusage would count what its parent held at the fork."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def report_of(command: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a process that succeeds prints last, a JSON object.

    Args:
        environment: None: this process's own.
    """
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ended.stdout.splitlines()[-1])
