"""Every option of `hydra/launcher: msrun`. Options that msrun has too bear its name and its meaning."""

from dataclasses import dataclass
from typing import Any, Optional

from hydra.core.config_store import ConfigStore


@dataclass
class MsrunLauncherConf:
    _target_: str = "hydra_plugins.msrun_launcher.msrun_launcher.MsrunLauncher"

    # processes of one job over all nodes (machines); 1: a plain child process without msrun
    worker_num: int = 1

    # processes of one job on this node, as many as on every other; null: all of them
    local_worker_num: Optional[int] = None

    # address or host name of node 0, which holds rank 0; null: 127.0.0.1 (one node only)
    master_addr: Optional[str] = None

    # TCP port of the scheduler, 1024 to 65535; null: a free one is chosen (of several nodes: 8118). Several nodes'
    # launchers meet at the next port
    master_port: Optional[int] = None

    # this node's number, from 0; its ranks start at node_rank * local_worker_num
    node_rank: int = 0

    # directory of scheduler.log, msrun.log and worker_<rank>.log, of several nodes in node_<node_rank>/; null: logs/ in
    # the job's output directory
    log_dir: Optional[str] = None

    # msrun stays until its workers end; the launcher itself waits for them either way
    join: bool = True

    # seconds that nodes, and then the workers, may take to find each other; negative: no limit
    cluster_time_out: int = 600

    # CPU cores: true binds by the machine's topology, a mapping {device0: ["0-3"], ...} by hand
    bind_core: Any = False

    # path of a rank table that msrun hands to the workers; empty: none
    rank_table_file: str = ""

    # run the job in the launching process: no worker, no msrun, no time limit
    in_process: bool = False

    # seconds; a job that takes longer is stopped and has failed; null: no limit
    time_limit: Optional[float] = None

    # seconds from one sign of life of a rank to its next; a rank that takes longer hangs; null: no limit
    heartbeat: Optional[float] = None

    # seconds that a worker has between SIGTERM and SIGKILL when the job is told to stop; after a failure at most 3
    grace: float = 3.0

    # dotted path of a class that follows msrun_launcher.Lifecycle; null: none
    lifecycle: Optional[str] = None


ConfigStore.instance().store(group="hydra/launcher", name="msrun", node=MsrunLauncherConf, provider="msrun_launcher")
