"""A job's launcher options: read with the job's own values, and refused where they make no sense."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields

from omegaconf import DictConfig, OmegaConf

from hydra_plugins.msrun_launcher._failures import BadLauncherConfig
from hydra_plugins.msrun_launcher.config import MsrunLauncherConf

TARGET = MsrunLauncherConf._target_


def read_settings(config: DictConfig) -> MsrunLauncherConf:
    """The job's options, interpolations resolved in its own config."""
    values = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(MsrunLauncherConf), values))
    assert isinstance(settings, MsrunLauncherConf)
    return settings


def refuse_literals(configs: Sequence[DictConfig]) -> None:
    """Check what is written under hydra.launcher itself, before the application's own hook is asked.

    What refers to the application's keys is left to that hook, which knows better words; `refuse` is the last line.
    """
    _refuse(problem for config in configs for problem in _literal_problems(config))


def refuse(configs: Sequence[DictConfig]) -> None:
    """Check every job's options together.

    Raises BadLauncherConfig with all problems, each once.
    """
    _refuse(problem for config in configs for problem in _problems(read_settings(config)))


def _refuse(problems: Iterator[str]) -> None:
    found = list(dict.fromkeys(problems))
    if found:
        raise BadLauncherConfig(found)


def _literal_problems(config: DictConfig) -> Iterator[str]:
    node = config.hydra.launcher
    if node._target_ != TARGET:
        yield f"hydra/launcher: a job asks for {node._target_}, but the launch already runs through msrun"
        return
    names = [field.name for field in fields(MsrunLauncherConf)]
    values = {name: node[name] for name in names if not OmegaConf.is_interpolation(node, name)}
    yield from _field_problems(MsrunLauncherConf(**values))


def _problems(settings: MsrunLauncherConf) -> Iterator[str]:
    yield from _field_problems(settings)
    local, total = settings.local_worker_num, settings.worker_num
    if settings.in_process or local is None:
        return
    if local > total:
        yield f"hydra.launcher.local_worker_num={local} exceeds worker_num={total}"
    elif local < total and settings.master_port is None:
        yield "hydra.launcher.master_port is null: ranks on several machines need one that all machines name"
    elif local < total and (settings.node_rank + 1) * local > total:
        yield (
            f"hydra.launcher.node_rank={settings.node_rank}: its ranks would start at "
            f"{settings.node_rank * local}, but worker_num={total}"
        )


def _field_problems(settings: MsrunLauncherConf) -> Iterator[str]:
    if settings.worker_num < 1:
        yield f"hydra.launcher.worker_num={settings.worker_num}: a job needs at least 1 process"
    if settings.local_worker_num is not None and settings.local_worker_num < 1:
        yield f"hydra.launcher.local_worker_num={settings.local_worker_num}: at least 1, or null for all"
    if settings.master_port is not None and not 1024 <= settings.master_port <= 65535:
        yield f"hydra.launcher.master_port={settings.master_port}: outside 1024 to 65535"
    if settings.node_rank < 0:
        yield f"hydra.launcher.node_rank={settings.node_rank}: machines are numbered from 0"
    if settings.time_limit is not None and not settings.time_limit > 0:
        yield f"hydra.launcher.time_limit={settings.time_limit}: seconds above 0, or null for no limit"
    if settings.heartbeat is not None and not settings.heartbeat > 0:
        yield f"hydra.launcher.heartbeat={settings.heartbeat}: seconds above 0, or null for no limit"
    if not (settings.grace >= 0 and math.isfinite(settings.grace)):
        yield f"hydra.launcher.grace={settings.grace}: seconds, 0 or more"
    if not (isinstance(settings.bind_core, (bool, dict)) or OmegaConf.is_dict(settings.bind_core)):
        yield f"hydra.launcher.bind_core={settings.bind_core!r}: true, false, or a mapping from devices to cores"
