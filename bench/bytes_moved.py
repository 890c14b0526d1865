"""Bytes that all ranks send in a training step: counted by the kernel, and by the formula of docs/parallel.md.

    unshare --net python bench/bytes_moved.py

Reads the loopback device's counter. In its own network namespace (unshare needs root) nothing else is sent there. It
measures the CPU's collectives, including packet headers and acknowledgements.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from dscoder_exp.parallel.topology import Topology
from dscoder_exp.schema.config import OptimConfig
from dscoder_exp.schema.llama import LlamaConfig

CONFIG = LlamaConfig(1024, 256, 512, 4, 8, 4, 32, 512, 1e-6, 1e4, None, False, 0, 1, 2)
OPTIM = OptimConfig(1e-3, [0.9, 0.95], 1e-8, 0.0, False, 1.0, "constant", 0.0, None, 0.2, 0.1)
LAYOUTS = ["2 1 1 0", "1 2 1 0", "1 2 1 1", "1 1 2 0", "4 1 1 0", "2 2 1 0"]  # data, tensor, context, sequence
SEQUENCES, LENGTH, STEPS = 4, 128, 5
FLOAT = 4  # bytes
COPIES = 2  # MindSpore 2.10's CPU backend sends everything in its rings twice


def all_reduce(values: float, ranks: int) -> float:
    """Bytes that all ranks of a group send in a ring all-reduce (Patarasu & Yuan 2009)."""
    return COPIES * 2 * (ranks - 1) * values * FLOAT


def all_gather(values: float, ranks: int) -> float:
    """Bytes that all ranks of a group send; values: of the gathered tensor."""
    return COPIES * (ranks - 1) * values * FLOAT


def formula(topology: Topology) -> float:
    """Bytes that all ranks send in a step, without all-reduces of a few hundred values."""
    rows = SEQUENCES * LENGTH / topology.replicas
    residual, blocks = rows * CONFIG.hidden_size, CONFIG.num_hidden_layers
    total = 0.0
    if topology.tensor > 1:
        whole_world = topology.tensor == topology.ranks
        scatter = all_reduce(residual, topology.tensor)
        gather = all_gather(residual, topology.tensor) if whole_world else scatter
        head = all_reduce(residual, topology.tensor)  # no label is ignored, so the head computes all rows
        if topology.sequence:
            in_block = 2 * (gather + scatter) + 4 * gather + 2 * scatter
            ends = scatter + gather + gather  # embedding, before the head, embedding's gradient
        else:
            in_block, ends = 4 * scatter, scatter
        total += topology.replicas * (blocks * in_block + ends + head)
    if topology.context > 1:
        keys = rows * topology.context * CONFIG.num_key_value_heads / topology.tensor * CONFIG.head_dim
        total += blocks * (4 * all_gather(keys, topology.context) + 2 * all_reduce(keys, topology.context))
    if topology.replicas > 1:
        local = CONFIG.num_parameters / topology.tensor
        whole_world = topology.replicas == topology.ranks
        gather = all_gather(local, topology.replicas) if whole_world else all_reduce(local, topology.replicas)
        total += topology.tensor * (all_reduce(local, topology.replicas) + gather)
    return total


def sent() -> int:
    """Bytes sent over the loopback device so far."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split()[9])


def train(*sizes: str) -> None:
    """Run one rank; it prints the bytes sent per step by all ranks."""
    from mindspore.communication import get_rank, init

    from dscoder_exp.data.batch import Batch
    from dscoder_exp.device.start import start_device
    from dscoder_exp.model.build import build
    from dscoder_exp.parallel.collectives import Mesh
    from dscoder_exp.training.step import Step

    start_device("cpu")
    init()
    data, tensor, context, sequence = map(int, sizes)
    mesh = Mesh(Topology(get_rank(), data, tensor, context, bool(sequence)), "cpu")
    model = build(CONFIG, None, seed=0, device="cpu", precision="fp32", mesh=mesh)
    step = Step(model, OPTIM, recompute="none")
    shape = SEQUENCES // data, LENGTH
    ids = np.random.default_rng(0).integers(0, CONFIG.vocab_size, shape).astype(np.int32)
    positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), shape)
    batch = Batch(ids, ids, positions, np.zeros_like(ids))
    step([batch], 1e-3)  # not counted: compiles
    mesh.barrier()
    before = sent()
    for _ in range(STEPS):
        step([batch], 1e-3)
    mesh.barrier()
    print("SENT", (sent() - before) / STEPS, flush=True)


def main() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    print(f"{'data tensor context rows':28} {'counted':>12} {'formula':>12}")
    for number, sizes in enumerate(LAYOUTS):
        topology = Topology(0, *map(int, sizes.split()[:3]), sequence=sizes.endswith("1"))
        with tempfile.TemporaryDirectory() as logs:
            options = [f"--worker_num={topology.ranks}", f"--local_worker_num={topology.ranks}", "--join=True"]
            options += [f"--master_port={9700 + number}", f"--log_dir={logs}"]
            command = ["msrun", *options, "python", __file__, *sizes.split()]
            subprocess.run(command, check=True, capture_output=True)
            text = (Path(logs) / "worker_0.log").read_text()
        counted = float(text.split("SENT", 1)[1].split()[0])
        print(
            f"{sizes:28} {counted:12,.0f} {formula(topology):12,.0f}  {counted / formula(topology) - 1:+.1%}",
            flush=True,
        )


if __name__ == "__main__":
    train(*sys.argv[1:]) if len(sys.argv) > 1 else main()
