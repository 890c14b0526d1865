"""The pictures in docs/images, made anew: make pictures. Runs the quickstart, and needs Chromium (Debian: chromium)."""

import html
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

IMAGES = Path(__file__).parent / "images"
COMMAND = ["-m", "dscoder_exp", "+experiment=quickstart"]
PROGRESS = re.compile(r"^  (eval loss|answers|training|loading|preparing|saving)")  # a log has many such lines
STYLE = "margin: 16px; font: 14px/1.45 'DejaVu Sans Mono', monospace; white-space: pre-wrap"
PATIENCE = 120  # seconds until MLflow's page has to be there


def main() -> None:
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("There is no Chromium: install it (Debian: apt-get install chromium), or name it in CHROMIUM")
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        screen = quickstart(room)
        page = room / "screen.html"
        page.write_text(f"<meta charset='utf-8'><pre style=\"{STYLE}\">{html.escape(screen)}</pre>")
        height = 40 + 21 * sum(1 + len(line) // 125 for line in screen.splitlines())
        picture(browser, page.as_uri(), IMAGES / "quickstart.png", 1100, height)
        mlflow_page(browser, room, IMAGES / "mlflow.png")


def quickstart(room: Path) -> str:
    """What a user sees, less the lines of progress."""
    print("the quickstart, about 2 minutes", flush=True)
    run = subprocess.run(
        [sys.executable, *COMMAND], cwd=room, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    lines = [line.rstrip() for line in run.stdout.splitlines() if not PROGRESS.match(line)]
    text = "\n".join(lines).replace(str(room), "/home/you").replace(str(Path.home()), "/home/you")
    return f"$ python {' '.join(COMMAND)}\n{text.replace(sys.executable, 'python')}"


def mlflow_page(browser: str, room: Path, target: Path) -> None:
    with sqlite3.connect(room / "mlflow.db") as store:
        run, experiment = store.execute("SELECT run_uuid, experiment_id FROM runs").fetchone()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "mlflow", "ui", "--port", str(port), "--backend-store-uri", f"sqlite:///{room}/mlflow.db"]
    server = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address)
        page = f"{address}/#/experiments/{experiment}/runs/{run}/model-metrics"
        picture(browser, page, target, 1320, 1100)
    finally:
        server.terminate()
        server.wait()


def wait_for(address: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            urlopen(address).close()
            return
        except (URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def picture(browser: str, address: str, target: Path, width: int, height: int) -> None:
    """A screenshot of a page."""
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=30000"]
        options += ["--disable-background-networking", "--no-first-run", f"--user-data-dir={profile}"]
        options += [f"--window-size={width},{height}", f"--screenshot={target}"]
        subprocess.run([browser, *options, address], check=True, capture_output=True)
    print(target, flush=True)


if __name__ == "__main__":
    main()
