"""Ends as the job's `name` says, tracked as the real task is."""

import json
import os
import signal
import sys
import threading
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from dscoder_exp.schema.config import Config
from dscoder_exp.schema.errors import refuse
from dscoder_exp.tracking.run import open_run


def run(config: Config) -> float:
    rank = int(os.environ.get("RANK_ID", "0"))
    with open_run(config.tracking, config.output_dir, rank) as tracked:
        tracked.metrics({"train/loss": 1.5}, step=1)
        assert "mlflow" not in sys.modules
        output = Path(config.output_dir)
        output.mkdir(parents=True, exist_ok=True)
        (output / "config.json").write_text(json.dumps(asdict(config)))
        (output / f"threads-{rank}").write_text(os.environ.get("OMP_NUM_THREADS", "all"))
        (output / f"timeout-{rank}").write_text(os.environ["HCCL_CONNECT_TIMEOUT"])
        if rank == config.parallel.ranks - 1:
            _end(config.name)
    return 0.5


def _end(how: str) -> None:
    if how == "raise":
        raise ValueError("boom")
    if how == "refuse":
        raise refuse("data.source", "no row can be kept", "raise seq_length")
    if how == "exit3":
        sys.exit(3)
    if how == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "print":
        import_module("dscoder_exp.tasks.prepare").print_lines()  # the fake one
    if how == "hang":
        Path("started").touch()
        threading.Event().wait(120)
