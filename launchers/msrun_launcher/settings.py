"""Read and check a job's launcher options."""

import errno
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
        yield from port_problems(settings)
    else:
        yield from port_problems(settings)


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


def port_problems(settings: MsrunLauncherConf) -> Iterator[str]:
    """Ports that this node is to listen on and that are taken; one that the launcher chooses itself is free."""
    nodes = node_count(settings)
    if settings.worker_num == 1 or settings.node_rank != 0 or (settings.master_port is None and nodes == 1):
        return
    scheduler = master_port(settings)
    for port in (scheduler, scheduler + 1) if nodes > 1 else (scheduler,):
        if _is_taken(master_address(settings), port):
            which = f"port {port}, on which the launchers connect," if port != scheduler else "the port"
            yield f"hydra.launcher.master_port={scheduler}: {which} is taken{_listener(port)}; give another one"


def _is_taken(address: str, port: int) -> bool:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as MindSpore: closed connections don't count
            probe.bind(where)
    except (OSError, OverflowError) as error:  # an address that isn't ours is another problem
        return getattr(error, "errno", None) == errno.EADDRINUSE
    return False


def _listener(port: int) -> str:
    """The process that listens on the port, for a message; empty if the system doesn't tell."""
    import psutil  # here, to keep it out of every start

    try:
        for found in psutil.net_connections("tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr[1:2] == (port,) and found.pid is not None:
                return f" by process {found.pid} ({psutil.Process(found.pid).name()})"
    except (psutil.Error, OSError):
        pass
    return ""


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
