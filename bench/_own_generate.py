"""dscoder_exp's side of generate_vs_peers.py: _own_generate.py DIRECTORY PRECISION"""

import ctypes
import json
import sys
import time

import numpy as np
from _generation import BATCH, DECODED, PROMPT, REPEATS, rates
from _machine import peak_memory

from dscoder_exp.device.start import start_device
from dscoder_exp.generation.engine import Engine
from dscoder_exp.model.build import build
from dscoder_exp.native.library import library
from dscoder_exp.weights.source import open_weights

READ = 1 << 28  # bytes that are read to measure the bandwidth, more than any cache holds


def main() -> None:
    directory, precision = sys.argv[1:]
    start_device("cpu")
    source = open_weights(directory)
    model = build(source.config, source, seed=0, device="cpu", precision=precision, frozen=True)
    engine = Engine(model, BATCH)
    ids = np.arange(PROMPT, dtype=np.int32) + 100
    engine.reserve(PROMPT + DECODED)

    def decode(batch: int) -> None:
        slots, tokens = np.arange(batch, dtype=np.int32), np.full(batch, 100, np.int32)
        for position in range(DECODED):
            engine.decode(slots, tokens, np.full(batch, position, np.int32))

    read = bandwidth()
    found = rates(lambda: engine.prefill(0, ids), decode)
    size = source.config.num_parameters * (4 if precision == "fp32" else 2)
    beside = {"read": max(read, bandwidth()), "streamed": found["decode"] * size, "peak": peak_memory()}
    print(json.dumps(found | beside))


def bandwidth() -> float:
    """Bytes per second that the threads of the C++ kernels read, the best of REPEATS."""
    path, values = library().path, np.ones(READ // 4, np.float32)
    read = ctypes.CDLL(str(path)).sum_of_squares
    read.restype = ctypes.c_double
    arguments = ctypes.c_int64(1), (ctypes.c_int64 * 1)(values.size), (ctypes.c_void_p * 1)(values.ctypes.data)
    best = 0.0
    for _ in range(REPEATS):
        started = time.perf_counter()
        read(*arguments)
        best = max(best, READ / (time.perf_counter() - started))
    return best


if __name__ == "__main__":
    main()
