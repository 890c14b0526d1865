"""Run one job's task in fresh processes and bring its value back."""

import codecs
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write

from hydra_plugins.msrun_launcher.config import MsrunLauncherConf
from msrun_launcher.exchange import SHOWN, Job, search_path
from msrun_launcher.failures import WorkerFailed
from msrun_launcher.nodes.protocol import Nodes, nodes_of
from msrun_launcher.parent.process_tree import ProcessTree
from msrun_launcher.parent.report import Logs, job_log
from msrun_launcher.parent.start import scheduler_port, start_child, start_msrun
from msrun_launcher.parent.watch import Watch
from msrun_launcher.settings import local_ranks, node_count
from msrun_launcher.signals import Signals

log = logging.getLogger(__name__)
AFTER_FAILURE = 3.0  # seconds
SET_BY_MSRUN = ["OMP_NUM_THREADS"]  # to 1, where it imports MindSpore; its workers would take that for the user's


def run_in_workers(task: TaskFunction, config: DictConfig, settings: MsrunLauncherConf, signals: Signals) -> Any:
    """Called by Hydra's run_job in place of the task: working directory, environment and HydraConfig are the job's.

    Returns what the task returned on this node's first rank.
    Raises WorkerFailed. No process of the job is left here, whatever ends this.
    """
    ranks = local_ranks(settings)
    many = settings.worker_num > 1
    node = settings.node_rank if node_count(settings) > 1 else None
    hydra: Any = HydraConfig.get()
    typed_in = hydra.runtime.cwd  # with hydra.job.chdir=true the job runs elsewhere
    if settings.rank_table_file:
        settings = replace(settings, rank_table_file=os.path.join(typed_in, settings.rank_table_file))
    with read_write(hydra):
        hydra.launcher = settings  # resolved: to a worker, what they refer to is out of sight
    job_logging: Any = None
    if hydra.job_logging is not None:
        job_logging = OmegaConf.to_container(hydra.job_logging, resolve=True)
    log_dir = Path(typed_in, settings.log_dir or Path(hydra.runtime.output_dir, "logs")) if many else None
    if log_dir is not None and node is not None:
        log_dir /= f"node_{node}"  # they may have one directory
    job = Job(task, config, Singleton.get_state(), job_logging, hydra.verbose, ranks[0], many)
    start = {
        "sys_path": search_path(typed_in),
        "grace": settings.grace,
        "node": settings.node_rank,
        "unset": [name for name in SET_BY_MSRUN if name not in os.environ],
    }
    with (
        _exchange_directory(job, start) as directory,
        scheduler_port(settings) as port,
        nodes_of(settings, hydra.job.num, hydra.overrides.task) as nodes,
    ):
        nodes.rendezvous()
        if node is not None:
            log.info("node %d of %d: %s; logs in %s", node, node_count(settings), _words(ranks), log_dir)
        root = start_child(directory) if log_dir is None else start_msrun(directory, settings, port, log_dir)
        tree = ProcessTree(root, root_is_worker=not many, directory=directory)
        watch = Watch(directory, root, ranks, Logs(log_dir, job_log(job_logging), node))
        follow = [_follow(directory / name, to) for name, to in zip(SHOWN, (sys.stdout, sys.stderr), strict=True)]

        def show() -> None:
            for news in follow:
                news()

        try:
            _supervise(watch, tree, nodes, settings, signals, each_poll=show)
        finally:
            show()
        if node is not None:
            log.info("node %d of %d: all nodes have completed", node, node_count(settings))
        return watch.value(ranks[0])


def _supervise(
    watch: Watch,
    tree: ProcessTree,
    nodes: Nodes,
    settings: MsrunLauncherConf,
    signals: Signals,
    *,
    each_poll: Callable[[], None],
) -> None:
    """Wait until the workers of all nodes have completed. What ends the job otherwise is raised.

    No process of the job is left here, whatever ends this.
    """

    def look() -> None:
        each_poll()
        nodes.poll()

    try:
        watch.until_done(settings.time_limit, settings.heartbeat, look)
        nodes.wait_until_done()  # before msrun's scheduler ends, which the other nodes' workers need
    except BaseException as error:
        with signals.held():
            reason = nodes.report(error)
            if settings.worker_num > 1 and isinstance(reason, WorkerFailed):  # at once: those that hang take the grace
                log.error("%s; the other ranks are stopped", str(reason).splitlines()[0])
            # A failed rank's peers wait for it in a collective, and nothing that they could save is whole.
            grace = min(settings.grace, AFTER_FAILURE) if isinstance(reason, Exception) else settings.grace
            tree.add_workers(watch.pids())
            tree.stop(grace, hurry=lambda: signals.hurry)
        if reason is error:
            raise
        raise reason from None  # what another node told came first
    with signals.held():
        tree.add_workers(watch.pids())
        tree.kill()


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


def _words(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"


def _follow(path: Path, to: TextIO) -> Callable[[], None]:
    """A function that shows what the file, if it is there, has grown by since its last call."""
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
            to.write(decoder.decode(content))
            to.flush()

    return show
