"""Two nodes of two ranks each, simulated by two commands: one node loses a rank, then both resume."""

from collections.abc import Callable

import psutil
import pytest
from processes import Started
from tasks_support import FIVE_STEPS, Workspace, succeeded

SEVERAL = ["hydra.launcher.local_worker_num=2", "hydra.launcher.master_addr=127.0.0.1"]


@pytest.mark.proof
def test_two_nodes_resumed_after_a_kill_equal_one_process(
    workspace: Workspace, empty_workspace: Workspace, free_port: Callable[[], int]
) -> None:
    output = workspace.directory / "runs/nodes"
    run = [*FIVE_STEPS, "train.global_batch_size=4", "train.save_every=2", "parallel=single"]
    four = ["parallel.data=4", "train.resume=auto"]
    own = ["name=nodes", f"output_dir={output}", f"hydra.launcher.master_port={free_port()}"]

    def begin() -> list[Started]:
        return [
            place.start(*run, *four, *own, *SEVERAL, f"hydra.launcher.node_rank={node}")
            for node, place in enumerate((workspace, empty_workspace))
        ]

    nodes = begin()
    nodes[0].wait_for(output / "checkpoints/step-000002")
    (file,) = empty_workspace.home.glob("msrun-*/rank-3.pid")
    psutil.Process(int(file.read_text())).kill()
    for started in nodes:
        ended = started.wait()
        assert ended.code == 1
        assert "\nrank 3 failed: killed by SIGKILL\nlog on node 1: " in ended.err
        assert started.left() == []
    assert workspace.run("nodes").status == "FAILED"
    assert workspace.run("nodes").tags["error"].startswith("rank 3 failed: killed by SIGKILL\n")

    for started in begin():
        assert "all nodes have completed" in succeeded(started.wait()).out
    assert {path.name for path in empty_workspace.directory.iterdir()} == {"rows.json", "mlflow.db", "multirun"}
    succeeded(workspace(*run, "name=alone", "output_dir=runs/alone", "train.micro_batch_size=4"))
    found, reference = workspace.run("nodes"), workspace.run("alone")
    assert found.status == "FINISHED"
    for metric in ("train/loss", "train/grad_norm", "eval/loss"):
        assert found.values(metric) == pytest.approx(reference.values(metric), rel=1e-5), metric
