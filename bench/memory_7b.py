"""Memory per card while 7B is trained, by arithmetic (the table of docs/parallel.md): python bench/memory_7b.py

Activations and replicated weights are in bf16, all else in fp32. train.recompute=full, one sequence per micro step, no
gradient accumulation (with which replicas keep whole gradients instead of slices). Not measured: no NPU was available.
"""

from dscoder_exp.parallel.topology import Topology
from dscoder_exp.schema.llama import LlamaConfig

CONFIG = LlamaConfig(102400, 4096, 11008, 30, 32, 32, 128, 4096, 1e-6, 1e4, None, False, 100000, 100001, 100015)
LAYOUTS = {
    "dp4": Topology(0, data=4),
    "dp8": Topology(0, data=8),
    "dp16": Topology(0, data=16),
    "tp2": Topology(0, tensor=2, sequence=True),
    "tp4": Topology(0, tensor=4, sequence=True),
    "tp8": Topology(0, tensor=8, sequence=True),
    "dp2_tp2": Topology(0, data=2, tensor=2, sequence=True),
    "dp2_tp4": Topology(0, data=2, tensor=4, sequence=True),
    "cp8": Topology(0, context=8),
}
LENGTHS = (2048, 4096, 8192, 16384)
CHUNK = 1024  # rows (positions) whose logits exist at a time


def memory(topology: Topology, length: int) -> dict[str, float]:
    """GB per card, by purpose; length: tokens of a sequence."""
    hidden, ffn, tensor, replicas = CONFIG.hidden_size, CONFIG.intermediate_size, topology.tensor, topology.replicas
    local, table = CONFIG.num_parameters / tensor, CONFIG.vocab_size * hidden / tensor
    block = (local - 2 * table) / CONFIG.num_hidden_layers
    rows = length / topology.context
    residual = rows * hidden / (tensor if topology.sequence else 1)
    if replicas == 1:
        weights, state, gradients = 4 * local, 8 * local, 4 * local  # state: two moments
        cast, gathered = 2 * block, 0.0
    else:  # moments and fp32 weights by slices; gradients: a slice, whole: two tables, a block, one table in transit
        weights, state, gradients = 2 * local, 12 * local / replicas, 4 * local / replicas + 4 * (3 * table + block)
        cast, gathered = 0.0, 2 * table
    inside = rows * (4 * hidden + 3 * ffn) / tensor + 3 * rows * hidden  # activations inside a block
    computing = 2 * 2 * inside + cast  # forward and backward, 2 bytes each
    logits = CHUNK * CONFIG.vocab_size / tensor * (4 + 4 + 2)
    parts = {
        "weights": weights,
        "optimizer state": state,
        "gradients": gradients,
        "kept for the backward": CONFIG.num_hidden_layers * 2 * residual,
        "at work, at most": max(computing, logits, gathered),
    }
    return {name: size / 1e9 for name, size in parts.items()}


def main() -> None:
    print("| GB a card | " + " | ".join(f"{length:,}" for length in LENGTHS) + " |")
    for name, topology in LAYOUTS.items():
        totals = (sum(memory(topology, length).values()) for length in LENGTHS)
        print(f"| {name} | " + " | ".join(f"{total:.0f}" for total in totals) + " |")
    print(f"\nat {LENGTHS[2]:,}:")
    for name, topology in LAYOUTS.items():
        print(f"| {name} | " + " | ".join(f"{size:.1f}" for size in memory(topology, LENGTHS[2]).values()) + " |")


if __name__ == "__main__":
    main()
