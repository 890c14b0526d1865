"""Two nodes of two ranks each, which here are two commands on one machine: one of them loses a rank, both go on."""

from collections.abc import Callable

import psutil
import pytest
from processes import Started
from tasks_support import FIVE_STEPS, Room, done

SEVERAL = ["hydra.launcher.local_worker_num=2", "hydra.launcher.master_addr=127.0.0.1"]


@pytest.mark.proof
def test_two_nodes_go_on_after_a_kill_to_what_one_process_comes_to(
    room: Room, empty_room: Room, free_port: Callable[[], int]
) -> None:
    output = room.directory / "runs/nodes"
    run = [*FIVE_STEPS, "train.save_every=2", "parallel=single"]
    four = ["parallel.data=4", "train.resume=auto"]
    own = ["name=nodes", f"output_dir={output}", f"hydra.launcher.master_port={free_port()}"]

    def begin() -> list[Started]:
        return [
            place.start(*run, *four, *own, *SEVERAL, f"hydra.launcher.node_rank={node}")
            for node, place in enumerate((room, empty_room))
        ]

    nodes = begin()
    nodes[0].wait_for(output / "checkpoints/step-000002")
    (file,) = empty_room.home.glob("msrun-*/rank-3.pid")
    psutil.Process(int(file.read_text())).kill()
    for started in nodes:
        ended = started.wait()
        assert ended.code == 1
        assert "\nrank 3 failed: killed by SIGKILL\nlog on node 1: " in ended.err
        assert started.left() == []
    assert room.run("nodes").status == "FAILED"
    assert room.run("nodes").tags["error"].startswith("rank 3 failed: killed by SIGKILL\n")

    for started in begin():
        assert "all nodes have completed" in done(started.wait()).out
    assert {path.name for path in empty_room.directory.iterdir()} == {"rows.json", "mlflow.db", "multirun"}
    done(room(*run, "name=alone", "output_dir=runs/alone", "train.micro_batch_size=4"))
    found, reference = room.run("nodes"), room.run("alone")
    assert found.status == "FINISHED"
    for metric in ("train/loss", "train/grad_norm", "eval/loss"):
        assert found.values(metric) == pytest.approx(reference.values(metric), rel=1e-5), metric
