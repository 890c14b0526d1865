"""Training speed and memory by sequence length: python bench/attention_lengths.py code_alpaca_20k.json.

model=tiny on the file's rows, packed, each length in its own process. The model is so small that attention dominates a
long step. Its cost should depend on the length of the documents, not on that of the sequence they are packed into: with
the same number of tokens in every step, tokens/s should be the same for all lengths. With one sequence per step, short
sequences have fewer tokens/s, since a step also has a fixed cost; memory shows what a length needs.
"""

import argparse
import tempfile
from pathlib import Path

from _machine import machine
from _measured import measure

LENGTHS = (1024, 2048, 4096, 8192)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the rows, e.g. code_alpaca_20k.json")
    parser.add_argument(
        "--steps",
        type=int,
        default=60,
        help="optimizer steps per length; in the first ones MindSpore tries thread counts",
    )
    arguments = parser.parse_args()
    data = ["model=tiny", "data=code_alpaca", f"data.source={arguments.source.resolve()}"]
    print(machine())
    print(f"{'seq_length':>10}{'batch_size':>12}{'ms a step':>11}{'tokens/s':>10}{'peak memory':>13}")
    with tempfile.TemporaryDirectory() as directory:
        for tokens in (max(LENGTHS), None):
            for length in LENGTHS:
                batch = tokens // length if tokens else 1
                sizes = [f"train.global_batch_size={batch}", f"train.micro_batch_size={batch}"]
                settings = [f"seq_length={length}", f"train.max_steps={arguments.steps}"]
                run = measure(Path(directory), *data, *sizes, *settings)
                print(
                    f"{length:10}{batch:12}{run.step * 1000:11.0f}{batch * length / run.step:10.0f}"
                    f"{run.peak / 1e9:10.2f} GB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
