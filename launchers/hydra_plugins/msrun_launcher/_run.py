"""Run one job's task in fresh processes and bring its value back."""

import codecs
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.msrun_launcher._exchange import Job, search_path
from hydra_plugins.msrun_launcher._report import Logs, job_log
from hydra_plugins.msrun_launcher._signals import Signals
from hydra_plugins.msrun_launcher._start import local_ranks, scheduler_port, start_child, start_msrun
from hydra_plugins.msrun_launcher._tree import ProcessTree
from hydra_plugins.msrun_launcher._watch import Watch
from hydra_plugins.msrun_launcher.config import MsrunLauncherConf

AFTER_FAILURE = 3.0  # seconds


def run_in_workers(task: TaskFunction, config: DictConfig, settings: MsrunLauncherConf, signals: Signals) -> Any:
    """Called by Hydra's run_job in place of the task: working directory, environment and HydraConfig are the job's.

    Returns what the task returned on this machine's first rank.
    Raises WorkerFailed. No process of the job is left, whatever ends this.
    """
    ranks = local_ranks(settings)
    many = settings.worker_num > 1
    hydra = HydraConfig.get()
    logging: Any = OmegaConf.to_container(hydra.job_logging, resolve=True) if hydra.job_logging is not None else None  # type: ignore[arg-type]
    log_dir = Path(settings.log_dir or Path(hydra.runtime.output_dir) / "logs").absolute() if many else None
    job = Job(task, config, Singleton.get_state(), logging, hydra.verbose, ranks[0], many)
    start = {"sys_path": search_path(hydra.runtime.cwd), "grace": settings.grace}
    with _exchange_directory(job, start) as directory, scheduler_port(settings) as port:
        root = start_child(directory) if log_dir is None else start_msrun(directory, settings, port, log_dir)
        tree = ProcessTree(root, root_is_worker=not many, directory=directory)
        watch = Watch(directory, root, ranks, Logs(log_dir, job_log(logging)))
        show_log = _follow(log_dir / f"worker_{ranks[0]}.log") if log_dir is not None else lambda: None
        try:
            watch.until_done(settings.time_limit, settings.heartbeat, show_log)
        except BaseException as reason:
            # A failed rank's peers wait for it in a collective, and nothing that they could save is whole.
            grace = min(settings.grace, AFTER_FAILURE) if isinstance(reason, Exception) else settings.grace
            with signals.held():
                tree.add_workers(watch.pids())
                tree.stop(grace, hurry=lambda: signals.hurry)
            raise
        else:
            with signals.held():
                tree.add_workers(watch.pids())
                tree.kill()
        finally:
            show_log()
        return watch.value(ranks[0])


@contextmanager
def _exchange_directory(job: Job, start: dict[str, Any]) -> Iterator[Path]:
    """The job's exchange directory, gone afterwards; the pipe in it closes when this process dies."""
    directory = Path(tempfile.mkdtemp(prefix="msrun-"))
    try:
        pipe = directory / "alive"
        os.mkfifo(pipe)
        (directory / "start.json").write_text(json.dumps(start))
        (directory / "job.pkl").write_bytes(cloudpickle.dumps(job))
        writer = os.open(pipe, os.O_RDWR)  # for writing alone it would wait for a reader; not inherited by children
        try:
            yield directory
        finally:
            os.close(writer)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _follow(path: Path) -> Callable[[], None]:
    """A function that shows what the file has grown by since its last call."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    position = 0

    def show() -> None:
        nonlocal position
        if not path.exists():
            return
        with path.open("rb") as log:
            log.seek(position)
            content = log.read()
        position += len(content)
        if content:
            sys.stdout.write(decoder.decode(content))
            sys.stdout.flush()

    return show
