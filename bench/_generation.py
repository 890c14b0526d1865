"""What all sides of generate_vs_peers.py measure, and how. Standard library only: the peers' sides import it, too."""

import time
from collections.abc import Callable
from statistics import median

PROMPT = 512  # tokens of the prefilled prompt
DECODED = 32  # tokens decoded in a row
BATCH = 8  # sequences that are decoded together
REPEATS = 5  # of which the median counts


def rates(prefill: Callable[[], object], decode: Callable[[int], object]) -> dict[str, float]:
    """Tokens per second of each; decode(batch) decodes DECODED tokens of that many sequences."""
    return {
        "prefill": PROMPT / seconds_of(prefill),
        "decode": DECODED / seconds_of(lambda: decode(1)),
        "decode batch": BATCH * DECODED / seconds_of(lambda: decode(BATCH)),
    }


def seconds_of(run: Callable[[], object]) -> float:
    """The median of REPEATS calls, after one that doesn't count."""
    run()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return median(times)
