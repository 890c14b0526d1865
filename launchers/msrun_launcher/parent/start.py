"""Start a job's processes: a plain child, or msrun, which starts a scheduler and one process a rank."""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from omegaconf import OmegaConf

from hydra_plugins.msrun_launcher.config import MsrunLauncherConf
from msrun_launcher.failures import WorkerFailed
from msrun_launcher.parent import spare
from msrun_launcher.parent.spare import WORKER
from msrun_launcher.settings import local_ranks, master_address, master_port, node_count, port_problems

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def start_child(directory: Path) -> subprocess.Popen[bytes]:
    """Start one plain worker, which inherits stdout and stderr, so that progress bars see the terminal."""
    if (worker := spare.take(directory)) is not None:
        return worker
    command = [sys.executable, "-P", str(WORKER), str(directory)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


@contextmanager
def scheduler_port(settings: MsrunLauncherConf) -> Iterator[int]:
    """The configured port, or a free one, reserved while msrun starts: it takes seconds until it listens.

    Raises WorkerFailed if the configured one is taken.
    """
    if settings.master_port is not None or node_count(settings) > 1:
        if (taken := next(port_problems(settings), None)) is not None:  # since the launch was checked
            raise WorkerFailed(taken)
        yield master_port(settings)
        return
    with socket.socket() as holder:
        # Bound, not listening. MindSpore's scheduler sets this option too, so that it can bind the port as well.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("", 0))
        yield holder.getsockname()[1]


def start_msrun(directory: Path, settings: MsrunLauncherConf, port: int, log_dir: Path) -> subprocess.Popen[bytes]:
    """Start msrun, which starts the scheduler and this node's ranks. Its own output goes to <log_dir>/msrun.log.

    Raises WorkerFailed if the program msrun is not installed.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    for rank in local_ranks(settings):
        (log_dir / f"worker_{rank}.log").unlink(missing_ok=True)  # an earlier job's log would be quoted as this job's
    (log_dir / "scheduler.log").unlink(missing_ok=True)
    here = str(Path(sys.executable).parent)
    program = shutil.which("msrun", path=os.pathsep.join([here, os.environ.get("PATH", "")]))
    if program is None:
        raise WorkerFailed(f"msrun not found in {here} or on PATH: is mindspore installed?")
    # msrun looks up `python` on PATH, which may find another interpreter.
    environment = os.environ | {"PATH": os.pathsep.join([here, os.environ.get("PATH", os.defpath)])}
    with (log_dir / "msrun.log").open("wb") as log:
        return subprocess.Popen(
            [program, *_options(settings, port, log_dir), "python", "-P", str(WORKER), str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=_killed_with_parent(),
        )


def _options(settings: MsrunLauncherConf, port: int, log_dir: Path) -> list[str]:
    binding: Any = settings.bind_core
    if OmegaConf.is_config(binding):
        binding = OmegaConf.to_container(binding)
    options = {
        "worker_num": settings.worker_num,
        "local_worker_num": len(local_ranks(settings)),
        "master_addr": master_address(settings),
        "master_port": port,
        "node_rank": settings.node_rank,
        "log_dir": log_dir,
        "join": settings.join,
        "cluster_time_out": settings.cluster_time_out,
        "bind_core": json.dumps(binding),
        "rank_table_file": settings.rank_table_file,
        # A rank that does not exist: msrun's `tail -f` processes would outlive it. The launcher prints the output.
        "tail_worker_log": settings.worker_num,
    }
    return [f"--{name}={value}" for name, value in options.items()]


def _killed_with_parent() -> Optional[Callable[[], None]]:
    """A preexec_fn that has the kernel kill msrun when the launcher dies (Linux only; workers use worker/guard.py)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork: after it only the call is safe

    def set_death_signal() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return set_death_signal
