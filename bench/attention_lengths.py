"""Training speed and memory by sequence length: python bench/attention_lengths.py code_alpaca_20k.json.

model=tiny, on the file's rows, packed, a sequence a step, each length in a process of its own. The model is so small
that attention is most of a long step's work: tokens/s would stay the same from length to length, if its cost grew with
the documents, which stay as they are, and not with the sequence that they are packed into.
"""

import argparse
import tempfile
from pathlib import Path

from _machine import machine
from _measured import measure

LENGTHS = (1024, 2048, 4096, 8192)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the rows: code_alpaca_20k.json")
    parser.add_argument("--steps", type=int, default=60, help="a length; MindSpore tries thread counts in the first")
    arguments = parser.parse_args()
    data = ["model=tiny", "data=code_alpaca", f"data.source={arguments.source.resolve()}"]
    print(machine())
    print(f"{'seq_length':>10}{'sequences':>11}{'text':>8}{'ms a step':>11}{'tokens/s':>10}{'peak memory':>13}")
    with tempfile.TemporaryDirectory() as directory:
        for length in LENGTHS:
            run = measure(Path(directory), *data, f"seq_length={length}", f"train.max_steps={arguments.steps}")
            print(
                f"{length:10}{run.sequences:11}{run.text:8.1%}{run.step * 1000:11.0f}{length / run.step:10.0f}"
                f"{run.peak / 1e9:10.2f} GB",
                flush=True,
            )


if __name__ == "__main__":
    main()
