"""Records of what processes did on the simulated device."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

H2D, D2H, D2D = "host to device", "device to host", "device to device"


@dataclass(frozen=True)
class CopyCount:
    count: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class CollectiveCount(CopyCount):
    """Collectives of one name, dtype and number of ranks.

    Attributes:
        overlapped: total number of kernels launched on other streams while these collectives ran: between a collective
            and the first wait for it, by another stream or by the host. 0: nothing overlaps.
    """

    overlapped: int = 0


@dataclass(frozen=True)
class Launch:
    """A kernel in one set of dtypes.

    Attributes:
        name: of the aclnn call, or "aclop NAME" for an operator without one.
        dtypes: of its tensors in the call's order, results last; a list of tensors is "{bf16 bf16}".
        shapes: of the first call, in the same order.
        count: number of launches.
        executors: number of times such a call was prepared: when graphs are compiled, and for new shapes.
    """

    name: str
    dtypes: str
    shapes: str
    count: int
    executors: int


@dataclass(frozen=True)
class Figures:
    """Numbers of launches, copies, waits and collectives, of a run or of a part of it."""

    launches: float
    h2d: float
    h2d_bytes: float
    d2h: float
    d2h_bytes: float
    waits: float  # by the host, for a stream, an event or the device
    collectives: float

    def per_step_from(self, shorter: "Figures", steps: int) -> "Figures":
        """Figures of one step: the difference to the same run with `steps` fewer steps, divided by `steps`."""
        return Figures(**{name: (value - vars(shorter)[name]) / steps for name, value in vars(self).items()})


@dataclass(frozen=True)
class Record:
    """Record of one process from its start to its end.

    Attributes:
        rank: the process's rank in its job.
        copies: by direction, H2D, D2H or D2D.
        waits: number of the host's waits, for "stream", "event" or "device".
        collectives: by name, dtype and number of ranks, as "AllReduce fp32 of 2". Bytes are those of an all-gather's
            whole output and of a reduce-scatter's whole input.
        runtime_peak: peak of the bytes allocated from the device's runtime.
        pool_peak, pool_reserved: peak of the bytes in use in MindSpore's pool, and bytes reserved by it; None: unknown.
        errors: unexpected calls.
        fused: launches of kernels that MindSpore's compiler generated (jit_level=O1), which have no row in the table.
        others: number of calls of each function that has only a stub.
    """

    rank: int
    launches: tuple[Launch, ...]
    copies: dict[str, CopyCount]
    waits: dict[str, int]
    collectives: dict[str, CollectiveCount]
    runtime_peak: int
    pool_peak: int | None
    pool_reserved: int | None
    errors: tuple[str, ...]
    fused: int
    others: dict[str, int]

    @property
    def figures(self) -> Figures:
        up, down = self.copies.get(H2D, CopyCount()), self.copies.get(D2H, CopyCount())
        return Figures(
            launches=sum(launch.count for launch in self.launches) + self.fused,
            h2d=up.count,
            h2d_bytes=up.bytes,
            d2h=down.count,
            d2h_bytes=down.bytes,
            waits=sum(self.waits.values()),
            collectives=sum(moved.count for moved in self.collectives.values()),
        )

    def prepared(self) -> Counter[str]:
        """Executors by kernel, summed over dtypes. If they grow after the first steps, graphs are compiled again."""
        found: Counter[str] = Counter()
        for launch in self.launches:
            found[launch.name] += launch.executors
        return found


def read_records(folder: Path, mark: int | None = None) -> tuple[Record, ...]:
    """The records that a run's processes wrote to the folder, sorted by rank, and then by time of ending.

    Args:
        mark: those that the processes wrote where they called dryrun_mark with this number; None: at their end.
    """
    found = (
        file for file in folder.glob("*.json") if file.stem.partition("-")[2] == ("" if mark is None else str(mark))
    )
    files = sorted(found, key=lambda file: file.stat().st_mtime_ns)
    return tuple(sorted(map(_read, files), key=lambda record: record.rank))


def _read(file: Path) -> Record:
    raw = json.loads(file.read_text())
    notes = {name: int(value) for name, value in raw["notes"].items()}
    launches = (Launch(*row) for row in raw["kernels"])
    return Record(
        rank=raw["rank"],
        launches=tuple(sorted(launches, key=lambda launch: (launch.name, launch.dtypes))),
        copies={name: CopyCount(*moved) for name, moved in raw["copies"].items()},
        waits=raw["waits"],
        collectives={name: CollectiveCount(*moved) for name, moved in raw["collectives"].items()},
        runtime_peak=raw["peak"],
        pool_peak=notes.get("max_memory_allocated"),
        pool_reserved=notes.get("max_memory_reserved"),
        errors=(*raw["errors"], *_unsupported(raw["others"])),
        fused=raw["others"].get("rtKernelLaunch", 0),
        others=raw["others"],
    )


# Stubs for which the record stays right; others of their prefixes copy data or launch kernels.
HARMLESS = ("HcclSetConfig", "HcclCommDestroy", "HcclGetCommAsyncError", "HcclGetCommConfigCapability")


def _unsupported(others: dict[str, int]) -> Iterable[str]:
    for name, count in others.items():
        if name.startswith(("Hccl", "Hcom", "aclrtLaunch")) and name not in HARMLESS:
            yield f"{name} was called {count} times, and the stand-ins don't implement it"
