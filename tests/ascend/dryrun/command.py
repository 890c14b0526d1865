"""Runs a command on Ascend cards that aren't there, and gives back what it asked of them."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .build import stand_ins, what_is_missing
from .record import Record, read_records
from .table import Table

INSIDE = Path(__file__).parent / "inside"
CARDS = 8
CARD_GIB = 64.0
TIMEOUT = 600  # seconds
# A /dev of the program's own: as many cards' files as it may count, and what a program needs besides. Takes root.
OWN_DEV = """set -e; mount -t tmpfs tmpfs "$1"; mkdir -m 1777 "$1/shm"; ln -s /proc/self/fd "$1/fd"
for name in null zero full random urandom; do touch "$1/$name"; mount --bind "/dev/$name" "$1/$name"; done
i=0; while [ "$i" -lt "$2" ]; do touch "$1/davinci$i"; i=$((i + 1)); done
mount --rbind "$1" /dev; shift 2; exec "$@" """


@dataclass(frozen=True)
class DryRun:
    """What came of a command.

    Attributes:
        status: its exit status.
        output: what it printed, stdout and stderr together.
        records: of its processes that used a device, by rank.
    """

    status: int
    output: str
    records: tuple[Record, ...]

    def problems(self, table: Table) -> list[str]:
        """All that shows that a card would not have run it, or that the record isn't to be trusted."""
        found = [f"exit status {self.status}: ...{self.output[-3000:]}"] if self.status else []
        if not self.records:
            found.append("nothing was recorded: no process used a device to its end")
        for record in self.records:
            found += [f"rank {record.rank}: {error}" for error in record.errors]
            found += [f"rank {record.rank}: {violation}" for violation in table.violations(record.launches)]
            without = table.missing(record.launches)
            found += [f"rank {record.rank}: {name} has no row in supported.toml" for name in without]
        return list(dict.fromkeys(found))


@cache
def why_not() -> str | None:
    """Why there are no dry runs on this machine; None: there are."""
    if (missing := what_is_missing()) is not None:
        return missing
    if shutil.which("unshare") is None:
        return "a /dev with cards is made by unshare, not found here"
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run([*_with_cards(1, Path(folder)), "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        return f"a /dev with cards can't be made: {tried.stderr.strip()}"
    return None


def dry_run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] = os.environ,
    directory: Path | None = None,
    gib: float = CARD_GIB,
    timeout: float = TIMEOUT,
) -> DryRun:
    """Run a command to its end. Its Python is the one that has MindSpore.

    Args:
        directory: where it runs; None: here.
        gib: memory of each card. A program that needs more fails as on a card.
        timeout: seconds.

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
        return DryRun(done.returncode, done.stdout, read_records(records))


def product(*overrides: str) -> list[str]:
    """The product's own command line."""
    return [sys.executable, "-m", "dscoder_exp", *overrides]


def _with_cards(count: int, dev: Path) -> list[str]:
    return ["unshare", "--mount", "sh", "-c", OWN_DEV, "sh", str(dev), str(count)]


def _environment(given: Mapping[str, str], home: Path, records: Path, gib: float) -> dict[str, str]:
    """What has to be set before the process starts: the loader reads LD_LIBRARY_PATH once."""

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
