"""Runs a command on simulated Ascend cards, and returns the record of what it did on them."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from .build import missing_requirement, stand_ins
from .record import Record, read_records
from .table import Table

INSIDE = Path(__file__).parent / "inside"
CARDS = 8
CARD_GIB = 64.0
TIMEOUT = 600  # seconds
# Shell script that gives the command a /dev of its own, with the device files of $2 cards and those that programs
# usually need. Needs root.
OWN_DEV = """set -e; mount -t tmpfs tmpfs "$1"; mkdir -m 1777 "$1/shm"; ln -s /proc/self/fd "$1/fd"
for name in null zero full random urandom; do touch "$1/$name"; mount --bind "/dev/$name" "$1/$name"; done
i=0; while [ "$i" -lt "$2" ]; do touch "$1/davinci$i"; i=$((i + 1)); done
mount --rbind "$1" /dev; shift 2; exec "$@" """


@dataclass(frozen=True)
class DryRun:
    """Result of a command.

    Attributes:
        status: its exit status.
        output: its stdout and stderr together.
        records: of each of its processes that used a device, sorted by rank.
        marked: number of a mark -> the records up to it, of the processes that called dryrun_mark with this number.
    """

    status: int
    output: str
    records: tuple[Record, ...]
    marked: Mapping[int, tuple[Record, ...]] = field(default_factory=dict)

    def problems(self, table: Table) -> list[str]:
        """Reasons why a card would not have run the command, or why the record is incomplete."""
        found = [f"exit status {self.status}: ...{self.output[-3000:]}"] if self.status else []
        if not self.records:
            found.append("nothing was recorded: no process used a device and ended normally")
        for record in self.records:
            found += [f"rank {record.rank}: {error}" for error in record.errors]
            found += [f"rank {record.rank}: {violation}" for violation in table.violations(record.launches)]
            without = table.missing(record.launches)
            found += [f"rank {record.rank}: {name} has no row in supported.toml" for name in without]
        return list(dict.fromkeys(found))


@cache
def unavailable_reason() -> str | None:
    """Why this machine can't do dry runs; None: it can."""
    if (missing := missing_requirement()) is not None:
        return missing
    if shutil.which("unshare") is None:
        return "dry runs need the command unshare, which this machine lacks"
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run([*_with_cards(1, Path(folder)), "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        return f"dry runs mount a /dev with cards, which needs root and failed: {tried.stderr.strip()}"
    return None


def dry_run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] = os.environ,
    directory: Path | None = None,
    gib: float = CARD_GIB,
    timeout: float = TIMEOUT,
    marks: Sequence[int] = (),
) -> DryRun:
    """Run a command to its end. The Python that it starts must be one that has MindSpore.

    Args:
        directory: its working directory; None: the current one.
        gib: memory of each card in GiB. A program that needs more fails as on a card.
        timeout: seconds.
        marks: the numbers with which the command calls dryrun_mark.

    Raises:
        subprocess.TimeoutExpired
    """
    home = stand_ins()
    with tempfile.TemporaryDirectory(prefix="dryrun-") as folder:
        records, dev = Path(folder) / "records", Path(folder) / "dev"
        records.mkdir()
        dev.mkdir()
        done = subprocess.run(
            [*_with_cards(CARDS, dev), *command],
            env=_environment(environment, home, records, gib),
            cwd=directory,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        marked = {mark: read_records(records, mark) for mark in marks}
        return DryRun(done.returncode, done.stdout, read_records(records), marked)


def product(*overrides: str) -> list[str]:
    """The command python -m dscoder_exp with these overrides."""
    return [sys.executable, "-m", "dscoder_exp", *overrides]


def _with_cards(count: int, dev: Path) -> list[str]:
    return ["unshare", "--mount", "sh", "-c", OWN_DEV, "sh", str(dev), str(count)]


def _environment(given: Mapping[str, str], home: Path, records: Path, gib: float) -> dict[str, str]:
    """Environment for the command. Set before it starts, since the loader reads LD_LIBRARY_PATH only then."""

    def before(name: str, folder: Path) -> str:
        return os.pathsep.join([str(folder), *filter(None, [given.get(name)])])

    return {
        **given,
        "LD_LIBRARY_PATH": before("LD_LIBRARY_PATH", home / "lib64"),
        "PYTHONPATH": before("PYTHONPATH", INSIDE),
        "ASCEND_HOME_PATH": str(home),
        "ASCEND_OPP_PATH": str(home / "opp"),
        "ASCEND_DRYRUN_RECORDS": str(records),
        "ASCEND_DRYRUN_HBM": str(int(gib * 2**30)),
    }
