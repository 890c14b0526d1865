"""An application whose rank `rank` of `ranks` ends as `how` says; the other ranks wait until they are stopped."""

import atexit
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig

from msrun_launcher import WorkerFailed
from msrun_launcher.heartbeat import beat

log = logging.getLogger(__name__)


class TaskError(Exception):
    """The application's own exception; with two arguments, it can't be pickled without __reduce__."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where, self.what = where, what

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.where, self.what)


@dataclass
class Config:
    how: str = "ok"
    rank: int = 0
    ranks: int = 1
    refuse: str = ""
    added: Optional[str] = None  # set by Recorder.before_job
    started: Optional[str] = None  # file that the last rank creates once the task runs
    output_dir: str = "${hydra:runtime.output_dir}"
    defaults: list[Any] = field(default_factory=lambda: ["_self_", {"override hydra/launcher": "msrun"}])
    hydra: Any = field(
        default_factory=lambda: {
            "mode": "MULTIRUN",
            "sweep": {"dir": "out/sweeps/1", "subdir": "${hydra.job.num}"},
            "launcher": {"worker_num": "${ranks}", "grace": 1.0},
        }
    )


ConfigStore.instance().store("config", node=Config)


def wait() -> None:
    threading.Event().wait(120)


def fail(how: str) -> None:
    if how == "raise_and_linger":  # the launcher stops the worker while Python runs its exit handlers
        atexit.register(time.sleep, 60)
    if how.startswith("raise"):
        raise TaskError("here", "boom")
    if how == "exit":
        sys.exit(3)
    if how == "exit0":
        sys.exit(0)
    if how == "os_exit":
        os._exit(4)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    if how == "silent":
        for step in range(3):
            beat(f"step {step}")
            time.sleep(0.2)
    if how == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait()


@hydra.main(version_base="1.3", config_path=None, config_name="config")
def main(config: Config) -> Any:
    rank = int(os.environ.get("RANK_ID", "0"))
    log.info("hello from rank %d", rank)
    print(f"print from rank {rank}")
    if config.how == "children":  # one child in this session, one in a new session
        for own_session in (False, True):
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], start_new_session=own_session)
    if config.started is not None and rank == config.ranks - 1:
        Path(config.started).touch()
    if config.how == "child_at_exit":  # a child in a new session, started while the task is stopped
        try:
            wait()
        finally:
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], start_new_session=True)
            Path(f"exited-{rank}").touch()
    if config.how == "ok":
        return 7
    if config.how == "report":
        facts = {name: os.environ.get(name) for name in ("RANK_ID", "RANK_SIZE", "MS_WORKER_NUM", "FROM_ENV_SET")}
        facts |= {"cwd": os.getcwd(), "added": config.added, "number": HydraConfig.get().job.num, "pid": os.getpid()}
        Path(config.output_dir, f"report-{rank}.json").write_text(json.dumps(facts))
        return facts
    if config.how == "late":  # fails after the other ranks have completed
        if rank != config.rank:
            return 7
        time.sleep(2)
        return fail("raise")
    if rank != config.rank:
        if config.how == "silent":  # waits for the silent rank, as in a collective
            beat("step 3")
        wait()
    return fail(config.how)


if __name__ == "__main__":
    try:
        main()
    except WorkerFailed as failure:  # only with HYDRA_FULL_ERROR
        print("cause:", type(failure.cause) is TaskError, failure.cause, failure.rank)
        raise
