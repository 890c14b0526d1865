"""Invalid options and combinations of options."""

import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.msrun_launcher.config import MsrunLauncherConf
from msrun_launcher.failures import BadLauncherConfig, WorkerFailed
from msrun_launcher.parent.start import scheduler_port
from msrun_launcher.settings import check_settings, read_settings

TWO_NODES = {"worker_num": 4, "local_worker_num": 2, "master_addr": "127.0.0.1"}


def job(**options: Any) -> DictConfig:
    launcher = OmegaConf.merge(OmegaConf.structured(MsrunLauncherConf), options)
    return OmegaConf.create({"ranks": 4, "hydra": {"launcher": launcher}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"worker_num": 0}, "worker_num=0"),
        ({"worker_num": 2, "local_worker_num": 0}, "local_worker_num=0"),
        ({"worker_num": 2, "local_worker_num": 3}, "local_worker_num=3 exceeds worker_num=2"),
        ({"worker_num": "${ranks}", "local_worker_num": 8}, "local_worker_num=8 exceeds worker_num=4"),
        ({"worker_num": 4, "local_worker_num": 3}, "local_worker_num=3 doesn't divide worker_num=4: every node runs"),
        ({"worker_num": 4, "node_rank": 1}, "node_rank=1, but all processes are on one node: hydra.launcher.local_wo"),
        ({**TWO_NODES, "node_rank": 2}, "node_rank=2: there are 2 nodes, 2 of 4 processes on each"),
        ({**TWO_NODES, "master_addr": None}, "master_addr is null: several nodes need the address of node 0"),
        ({**TWO_NODES, "master_addr": "nowhere.invalid"}, "master_addr=nowhere.invalid can't be resolved: "),
        ({**TWO_NODES, "master_addr": "192.0.2.1"}, "master_addr=192.0.2.1 isn't an address of this machine, which"),
        ({**TWO_NODES, "master_port": 65535}, "master_port=65535: several nodes need the next port too"),
        ({"master_port": 1023}, "must be 1024"),
        ({"master_port": 65536}, "must be 1024"),
        ({"node_rank": -1}, "node_rank=-1"),
        ({"time_limit": 0}, "time_limit=0"),
        ({"heartbeat": -1}, "heartbeat=-1"),
        ({"grace": float("nan")}, "grace=nan"),
        ({"rank_table_file": "none.json"}, "rank_table_file=none.json: no such file"),
        ({"bind_core": "some"}, "bind_core='some'"),
    ],
)
def test_invalid_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadLauncherConfig, match=message):
        check_settings([job(), job(**options)])


def test_all_problems_of_all_jobs_are_reported_at_once() -> None:
    with pytest.raises(BadLauncherConfig) as refused:
        check_settings([job(worker_num=0, grace=-1), job(worker_num=0), job(node_rank=-1)])
    assert [problem.partition("=")[0] for problem in refused.value.problems] == [
        "hydra.launcher.worker_num",
        "hydra.launcher.grace",
        "hydra.launcher.node_rank",
    ]


def test_valid_options_are_accepted(free_port: Callable[[], int]) -> None:
    check_settings(
        [
            job(),
            job(in_process=True, worker_num=8, local_worker_num=16),
            job(**TWO_NODES, master_port=free_port()),
            job(**TWO_NODES | {"node_rank": 1, "master_addr": "192.0.2.1"}, master_port=9543),
            job(worker_num=8, bind_core={"device0": ["0-3"]}),
        ]
    )


def test_interpolations_are_resolved_in_the_jobs_config() -> None:
    assert read_settings(job(worker_num="${ranks}")).worker_num == 4


@pytest.mark.parametrize(
    ("options", "offset", "which"),
    [
        ({"worker_num": 2}, 0, "the port"),
        (TWO_NODES, 0, "the port"),
        (TWO_NODES, 1, "port {taken}, on which the launchers connect,"),
    ],
)
def test_a_taken_port_is_named(free_port: Callable[[], int], options: dict[str, Any], offset: int, which: str) -> None:
    port = free_port()
    given = job(**options, master_port=port)
    with socket.create_server(("127.0.0.1", port + offset)):
        with pytest.raises(BadLauncherConfig) as refused:
            check_settings([given, given])
        (problem,) = refused.value.problems
        words = f"{which.format(taken=port + offset)} is taken by process {os.getpid()} ("
        assert problem.startswith(f"hydra.launcher.master_port={port}: {words}")
        with pytest.raises(WorkerFailed, match=f"master_port={port}: "), scheduler_port(read_settings(given)):
            pass  # taken only after the launch was checked
        check_settings([job(**options | {"worker_num": 1, "local_worker_num": None}, master_port=port)])
        if options is TWO_NODES:  # only node 0 listens
            check_settings([job(**options, master_port=port, node_rank=1)])
    check_settings([given])
