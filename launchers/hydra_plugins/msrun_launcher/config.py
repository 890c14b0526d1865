"""All options of `hydra/launcher: msrun`. An option that msrun itself has keeps msrun's name and meaning."""

from dataclasses import dataclass
from typing import Any, Optional

from hydra.core.config_store import ConfigStore


@dataclass
class MsrunLauncherConf:
    _target_: str = "hydra_plugins.msrun_launcher.msrun_launcher.MsrunLauncher"

    # processes (ranks) of one job over all nodes (machines); 1: one plain child process, without msrun
    worker_num: int = 1

    # processes of one job on this node, the same number on every node; null: worker_num
    local_worker_num: Optional[int] = None

    # address or host name of node 0, which runs rank 0; null: 127.0.0.1 (one node only)
    master_addr: Optional[str] = None

    # TCP port of msrun's scheduler, 1024 to 65535; null: a free one (several nodes: 8118). The launchers of several
    # nodes connect to node 0 on master_port + 1
    master_port: Optional[int] = None

    # this node's number, from 0; its first rank is node_rank * local_worker_num
    node_rank: int = 0

    # directory for scheduler.log, msrun.log and worker_<rank>.log; of several nodes in its node_<node_rank>/; null:
    # logs/ in the job's output directory
    log_dir: Optional[str] = None

    # msrun waits for its workers to exit; the launcher waits for them either way
    join: bool = True

    # seconds that the nodes, and then the workers, may take to connect to each other; negative: no limit
    cluster_time_out: int = 600

    # CPU cores of each rank: true: chosen from the machine's topology; {device0: ["0-3"], ...}: these; false: not bound
    bind_core: Any = False

    # path of a rank table file that msrun passes to the workers; empty: none
    rank_table_file: str = ""

    # run the job in the launcher's own process: no worker, no msrun, no time limit
    in_process: bool = False

    # seconds after which a job is stopped and counts as failed; null: no limit
    time_limit: Optional[float] = None

    # seconds that a rank may take from one heartbeat to the next; longer fails the job as hung; null: no limit
    heartbeat: Optional[float] = None

    # seconds between SIGTERM and SIGKILL for a worker when the job is stopped; at most 3 after a failure
    grace: float = 3.0

    # dotted path of a class that implements msrun_launcher.Lifecycle; null: none
    lifecycle: Optional[str] = None


ConfigStore.instance().store(group="hydra/launcher", name="msrun", node=MsrunLauncherConf, provider="msrun_launcher")
