"""Decodes with a small random model; test_ascend_decoding.py runs it on simulated cards, as one rank or with msrun.

Arguments: number of layers, and of tensor ranks; then `greedy`, or `sampled`, where the host chooses the tokens; then
`frozen` or `trained` weights; then the numbers of steps after which a mark is set, the last one being that of all.
"""

import ctypes
from sys import argv

import numpy as np

from dscoder_exp.device.start import start_device
from dscoder_exp.generation.engine import Engine
from dscoder_exp.model.build import build
from dscoder_exp.parallel.collectives import ALONE, join
from dscoder_exp.schema.config import ParallelConfig
from dscoder_exp.schema.llama import LlamaConfig

SLOTS = 3
LIBRARY = "libascendcl.so"  # the dry run's stand-in
CONFIG = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def main(layers: int, tensor: int, choice: str, weights: str, *marks: int) -> None:
    start_device("ascend")
    config = LlamaConfig(**CONFIG, num_hidden_layers=layers)
    parallel = ParallelConfig(data=1, tensor=tensor, context=1, sequence=False)
    mesh = join(parallel, "ascend", config.num_key_value_heads) if tensor > 1 else ALONE
    frozen = weights == "frozen"
    engine = Engine(build(config, None, seed=0, device="ascend", precision="bf16", frozen=frozen, mesh=mesh), SLOTS)
    engine.reserve(50)
    engine.prefill(0, np.arange(300, dtype=np.int32))  # two chunks, and more room than was reserved
    engine.copy(0, 2, 2)
    engine.prefill(2, ids(7, 8), 2)
    slots, tokens = ids(0, 2), ids(5, 6)
    for step in range(max(marks)):
        positions = ids(300 + step, 4 + step)
        if choice == "greedy":
            tokens = engine.decode_greedy(slots, tokens, positions)
        else:
            tokens = (engine.decode(slots, tokens, positions).argmax(1) + step) % config.vocab_size
        if step + 1 in marks:
            ctypes.CDLL(LIBRARY).dryrun_mark(step + 1)


if __name__ == "__main__":
    main(int(argv[1]), int(argv[2]), argv[3], argv[4], *map(int, argv[5:]))
