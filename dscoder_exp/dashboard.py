"""MLflow's UI on the tracking store, with the addresses of the last sweep and of its report: make dashboard.

python -m dscoder_exp.dashboard [--port PORT]; MLFLOW_TRACKING_URI names another store than tracking.uri.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from typing import TYPE_CHECKING

from hydra import compose, initialize_config_dir

from dscoder_exp.app import CONFIG_NAME, REFUSED, config_directory
from dscoder_exp.comparison.page import REPORT
from dscoder_exp.comparison.selection import latest_sweep
from dscoder_exp.schema.config import TrackingConfig
from dscoder_exp.schema.errors import Refused
from dscoder_exp.tasks.compare import ARTIFACTS
from dscoder_exp.tracking.reading import open_to_read
from dscoder_exp.tracking.store import resolve_uri

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

HOST, PORT = "127.0.0.1", 5000  # MLflow's own


def main() -> int:
    """Print the addresses and become `mlflow ui`; a server's are only printed. Returns the exit code of a refusal."""
    parser = argparse.ArgumentParser(description="MLflow's UI on the tracking store.")
    parser.add_argument("--port", type=int, default=PORT, help=f"another port than {PORT}; 0: any free one")
    arguments = parser.parse_args()
    try:
        uri = _store()
        client, _ = open_to_read(uri)
        is_server = uri.startswith("http")
        address = uri.rstrip("/") if is_server else f"http://{HOST}:{_free_port(arguments.port)}"
        print("\n".join([f"MLflow  {address}", *addresses(client, address)]), flush=True)
    except Refused as refused:
        print(refused, file=sys.stderr)
        return REFUSED
    if is_server:
        return 0
    print("Ctrl-C ends it.", flush=True)
    server = ["ui", "--backend-store-uri", uri, "--host", HOST, "--port", address.rpartition(":")[2]]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *server])


def addresses(client: MlflowClient, address: str) -> list[str]:
    """Lines with the pages of the last sweep and of its report, in the UI at `address`."""
    sweep = latest_sweep(client)
    if sweep is None:
        return ["sweep   none yet: python -m dscoder_exp -m …"]
    page = f"{address}/#/experiments/{sweep.experiment_id}/runs/{sweep.id}"
    lines = [f"sweep   {page} ({sweep.name}, {sweep.status})"]
    if any(file.path == f"{ARTIFACTS}/{REPORT}" for file in client.list_artifacts(sweep.id, ARTIFACTS)):
        return [*lines, f"report  {page}/artifacts/{ARTIFACTS}/{REPORT}"]
    return [*lines, f"report  none yet: python -m dscoder_exp task=compare compare.sweep={sweep.id}"]


def _store() -> str:
    """The tracking URI of conf/, or of MLFLOW_TRACKING_URI."""
    with initialize_config_dir(version_base="1.3", config_dir=str(config_directory())):
        return resolve_uri(TrackingConfig(**compose(CONFIG_NAME).tracking))


def _free_port(wanted: int) -> int:
    """The port, or another one where somebody listens at it."""
    with socket.socket() as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            first.bind((HOST, wanted))
        except OSError:
            first.bind((HOST, 0))
        return first.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
