"""The pictures in docs/images, made anew: make pictures. Runs the quickstart, about 2 minutes."""

import re
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

IMAGES = Path(__file__).parent / "images"
COMMAND = ["-m", "dscoder_exp", "+experiment=quickstart"]
PROGRESS = re.compile(r"^  (eval loss|answers|training|loading|preparing|saving)")  # a log has many such lines
COLUMNS, INCHES_A_LINE, INCHES_A_COLUMN = 120, 0.18, 0.084
METRICS = {"eval/loss": "nats a token", "train/loss": "nats a token", "train/grad_norm": "", "train/lr": ""}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        screen = quickstart(room)
        draw_text(screen, IMAGES / "quickstart.png")
        draw_metrics(room / "mlflow.db", IMAGES / "metrics.png")


def quickstart(room: Path) -> str:
    """What a user sees, less the lines of progress."""
    print("the quickstart, about 2 minutes", flush=True)
    command = [sys.executable, *COMMAND]
    run = subprocess.run(command, cwd=room, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lines = [line.rstrip() for line in run.stdout.splitlines() if not PROGRESS.match(line)]
    text = "\n".join(lines).replace(str(room), "/home/you").replace(str(Path.home()), "/home/you")
    return f"$ python {' '.join(COMMAND)}\n{text.replace(f'{Path(sys.executable).parent}/', '')}"


def draw_text(text: str, target: Path) -> None:
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, COLUMNS, drop_whitespace=False) or [""]]
    figure = plt.figure(figsize=(COLUMNS * INCHES_A_COLUMN, (len(lines) + 1) * INCHES_A_LINE))
    style = {"family": "DejaVu Sans Mono", "fontsize": 9.5, "va": "top", "linespacing": 1.35, "parse_math": False}
    figure.text(0.01, 0.99, "\n".join(lines), **style)
    save(figure, target)


def draw_metrics(store: Path, target: Path) -> None:
    """What the run has logged to MLflow, over optimizer steps."""
    with sqlite3.connect(store) as connection:
        asked = "SELECT step, value FROM metrics WHERE key = ? ORDER BY step"
        found = {name: connection.execute(asked, [name]).fetchall() for name in METRICS}
    figure, axes = plt.subplots(1, len(METRICS), figsize=(14, 3), layout="constrained")
    for axis, (name, points) in zip(axes, found.items(), strict=True):
        axis.plot(*zip(*points, strict=True), marker="o", markersize=3)
        axis.set(title=name, xlabel="optimizer step", ylabel=METRICS[name])
        axis.grid(alpha=0.3)
    save(figure, target)


def save(figure: Figure, target: Path) -> None:
    figure.savefig(target, dpi=100)
    plt.close(figure)
    print(target.name, flush=True)


if __name__ == "__main__":
    main()
