"""Read and check a job's launcher options."""

import math
import socket
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from hydra_plugins.msrun_launcher.config import MsrunLauncherConf
from msrun_launcher.failures import BadLauncherConfig

TARGET = MsrunLauncherConf._target_
LAST_PORT = 65535
MSRUN_PORT = 8118  # msrun's default --master_port


def read_settings(config: DictConfig) -> MsrunLauncherConf:
    """The job's launcher options, interpolations resolved against the job's config."""
    values = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(MsrunLauncherConf), values))
    assert isinstance(settings, MsrunLauncherConf)
    return settings


def local_workers(settings: MsrunLauncherConf) -> int:
    """Number of worker processes on this node."""
    return settings.local_worker_num or settings.worker_num


def local_ranks(settings: MsrunLauncherConf) -> range:
    """The ranks that run on this node."""
    if settings.worker_num == 1:
        return range(1)
    count = local_workers(settings)
    return range(settings.node_rank * count, (settings.node_rank + 1) * count)


def node_count(settings: MsrunLauncherConf) -> int:
    return 1 if settings.in_process else settings.worker_num // local_workers(settings)


def master_address(settings: MsrunLauncherConf) -> str:
    return (settings.master_addr or "127.0.0.1").strip("[]")


def master_port(settings: MsrunLauncherConf) -> int:
    """The scheduler's port with several nodes: fixed, since all of them must know it before they connect."""
    return settings.master_port or MSRUN_PORT


def check_literal_settings(configs: Sequence[DictConfig]) -> None:
    """Check literal values under hydra.launcher, before the application's before_launch is called.

    Interpolations of the application's keys are skipped: before_launch can name those keys in its messages, and
    `check_settings` checks the resolved values after it. Raises BadLauncherConfig with all problems.
    """
    _raise_if_any(problem for config in configs for problem in _literal_problems(config))


def check_settings(configs: Sequence[DictConfig]) -> None:
    """Check the resolved options of all jobs.

    Raises BadLauncherConfig with all problems, each once.
    """
    _raise_if_any(problem for config in configs for problem in _problems(read_settings(config)))


def _raise_if_any(problems: Iterator[str]) -> None:
    found = list(dict.fromkeys(problems))
    if found:
        raise BadLauncherConfig(found)


def _literal_problems(config: DictConfig) -> Iterator[str]:
    node = config.hydra.launcher
    if node._target_ != TARGET:
        yield f"hydra/launcher: a job selects {node._target_}, but this launch runs through msrun"
        return
    names = [field.name for field in fields(MsrunLauncherConf)]
    values = {name: node[name] for name in names if not OmegaConf.is_interpolation(node, name)}
    yield from _field_problems(MsrunLauncherConf(**values))


def _problems(settings: MsrunLauncherConf) -> Iterator[str]:
    yield from _field_problems(settings)
    local, total = local_workers(settings), settings.worker_num
    if settings.in_process or local < 1:
        return
    if local > total:
        yield f"hydra.launcher.local_worker_num={local} exceeds worker_num={total}"
    elif total % local:
        yield f"hydra.launcher.local_worker_num={local} doesn't divide worker_num={total}: every node runs as many"
    elif settings.node_rank >= total // local:
        yield _no_such_node(settings)
    elif total > local:
        yield from _rendezvous_problems(settings)


def _no_such_node(settings: MsrunLauncherConf) -> str:
    nodes, named = node_count(settings), f"hydra.launcher.node_rank={settings.node_rank}"
    if nodes == 1:
        return f"{named}, but all processes are on one node: hydra.launcher.local_worker_num=N puts N on each"
    return f"{named}: there are {nodes} nodes, {local_workers(settings)} of {settings.worker_num} processes on each"


def _rendezvous_problems(settings: MsrunLauncherConf) -> Iterator[str]:
    """Problems with the address and port at which several nodes connect to node 0."""
    address = settings.master_addr
    if settings.master_port == LAST_PORT:
        yield f"hydra.launcher.master_port={LAST_PORT}: several nodes need the next port too, which doesn't exist"
    if address is None:
        yield "hydra.launcher.master_addr is null: several nodes need the address of node 0, the same on each"
        return
    try:
        number = socket.getaddrinfo(master_address(settings), None, type=socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        yield f"hydra.launcher.master_addr={address} can't be resolved: {error.strerror}"
        return
    if settings.node_rank == 0 and number not in _own_addresses():  # msrun would start no scheduler
        yield f"hydra.launcher.master_addr={address} isn't an address of this machine, which is node_rank=0"


def _own_addresses() -> set[str]:
    import psutil  # here, to keep it out of every start

    return {address.address.partition("%")[0] for found in psutil.net_if_addrs().values() for address in found}


def _field_problems(settings: MsrunLauncherConf) -> Iterator[str]:
    if settings.worker_num < 1:
        yield f"hydra.launcher.worker_num={settings.worker_num}: a job needs at least 1 process"
    if settings.local_worker_num is not None and settings.local_worker_num < 1:
        yield f"hydra.launcher.local_worker_num={settings.local_worker_num}: must be at least 1, or null for worker_num"
    if settings.master_port is not None and not 1024 <= settings.master_port <= LAST_PORT:
        yield f"hydra.launcher.master_port={settings.master_port}: must be 1024 to {LAST_PORT}"
    if settings.node_rank < 0:
        yield f"hydra.launcher.node_rank={settings.node_rank}: nodes are numbered from 0"
    if settings.time_limit is not None and not settings.time_limit > 0:
        yield f"hydra.launcher.time_limit={settings.time_limit}: must be above 0 (seconds), or null for no limit"
    if settings.heartbeat is not None and not settings.heartbeat > 0:
        yield f"hydra.launcher.heartbeat={settings.heartbeat}: must be above 0 (seconds), or null for no limit"
    if not (settings.grace >= 0 and math.isfinite(settings.grace)):
        yield f"hydra.launcher.grace={settings.grace}: must be 0 or more (seconds)"
    if settings.rank_table_file and not Path(settings.rank_table_file).is_file():
        yield f"hydra.launcher.rank_table_file={settings.rank_table_file}: no such file"
    if not (isinstance(settings.bind_core, (bool, dict)) or OmegaConf.is_dict(settings.bind_core)):
        yield f"hydra.launcher.bind_core={settings.bind_core!r}: must be true, false, or a mapping {{device: [cores]}}"
