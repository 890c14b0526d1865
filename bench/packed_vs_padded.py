"""Packing compared with padding at the recipe's length: python bench/packed_vs_padded.py code_alpaca_20k.json.

model=tiny on the file's rows, seq_length=8192, one sequence per step: many rows in it (data.packing=true), or one row
and padding, as in the original recipe. The result is text tokens per second: the mean number of positions of a sequence
that aren't padding, divided by the median step time.
"""

import argparse
import tempfile
from pathlib import Path

from _machine import machine
from _measured import measure

LENGTH = 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the rows, e.g. code_alpaca_20k.json")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps of each run; the first two don't count")
    arguments = parser.parse_args()
    # An unpacked sequence is one document, which may be as long as the model's context.
    shape = ["model=tiny", f"model.max_position_embeddings={LENGTH}", f"seq_length={LENGTH}"]
    data = ["data=code_alpaca", f"data.source={arguments.source.resolve()}", f"train.max_steps={arguments.steps}"]
    print(machine())
    print(f"{'':8}{'sequences':>11}{'text':>8}{'ms a step':>11}{'text tokens/s':>15}{'peak memory':>13}")
    speeds = []
    with tempfile.TemporaryDirectory() as directory:
        for name, packing in (("packed", "true"), ("padded", "false")):
            run = measure(Path(directory), *shape, *data, f"data.packing={packing}")
            speeds.append(LENGTH * run.text / run.step)
            print(
                f"{name:8}{run.sequences:11}{run.text:8.1%}{run.step * 1000:11.0f}{speeds[-1]:15.1f}"
                f"{run.peak / 1e9:10.2f} GB",
                flush=True,
            )
    print(f"packed / padded: {speeds[0] / speeds[1]:.1f}")


if __name__ == "__main__":
    main()
