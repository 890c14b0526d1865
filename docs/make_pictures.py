"""The pictures in docs/images, made anew: make pictures. Runs the quickstart and a sweep, about 5 minutes.

The pages are drawn by Chromium (Debian's package chromium).
"""

import re
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.request
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from chromium import Chromium, chromium

IMAGES = Path(__file__).parent / "images"
COMMAND = ["-m", "dscoder_exp", "+experiment=quickstart"]
PROGRESS = re.compile(r"^  (eval loss|answers|training|loading|preparing|saving)")  # a log has many such lines
SWEEP = [
    *("-m", "dscoder_exp", "-m", "+experiment=tiny", "seq_length=128,256", "optim.lr=1e-3,3e-3", "seed=0,1,2"),
    *("train.max_steps=20", "train.eval_every=2"),
]
COMPARE = ["-m", "dscoder_exp", "task=compare", "compare.output=report"]
PORT = 5999
COLUMNS, INCHES_A_LINE, INCHES_A_COLUMN = 120, 0.18, 0.084
METRICS = {"eval/loss": "nats a token", "train/loss": "nats a token", "train/grad_norm": "", "train/lr": ""}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        screen = quickstart(room)
        draw_text(screen, IMAGES / "quickstart.png")
        draw_metrics(room / "mlflow.db", IMAGES / "metrics.png")
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        draw_comparison(Path(name), browser)


def quickstart(room: Path) -> str:
    """What a user sees, less the lines of progress."""
    print("the quickstart, about 2 minutes", flush=True)
    command = [sys.executable, *COMMAND]
    run = subprocess.run(command, cwd=room, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lines = [line.rstrip() for line in run.stdout.splitlines() if not PROGRESS.match(line)]
    text = "\n".join(lines).replace(str(room), "/home/you").replace(str(Path.home()), "/home/you")
    return f"$ python {' '.join(COMMAND)}\n{text.replace(f'{Path(sys.executable).parent}/', '')}"


def draw_comparison(room: Path, browser: Chromium) -> None:
    """The report of a sweep, and MLflow's page that shows it."""
    print("a sweep of 12 and its comparison, about 3 minutes", flush=True)
    for command in (SWEEP, COMPARE):
        subprocess.run([sys.executable, *command], cwd=room, check=True, stdout=subprocess.DEVNULL)
    browser.open(f"file://{room}/report/compare.html", width=1400, height=1500)
    browser.wait_for("Number(document.documentElement.dataset.drawn) >= 5")
    place = "document.querySelector('.meta').textContent"
    browser.run(f"{place} = {place}.replace('{room}', '/home/you')")
    browser.picture(IMAGES / "compare.png")
    dashboard = ["-m", "dscoder_exp.dashboard", "--port", str(PORT)]
    server = subprocess.Popen([sys.executable, *dashboard], cwd=room, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        told = dict(server.stdout.readline().split()[:2] for _ in range(3))
        wait_for_server(told["MLflow"])
        browser.open(told["report"], width=1400, height=900)
        browser.wait_for("document.querySelector('iframe') !== null")
        time.sleep(10)  # until the page inside has drawn its figures
        browser.picture(IMAGES / "compare-mlflow.png")
    finally:
        server.terminate()
        server.wait(60)


def wait_for_server(address: str) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"{address} doesn't answer")


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
