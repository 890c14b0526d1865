"""What a process asked of the device that isn't there, as numbers with names."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

H2D, D2H, D2D = "host to device", "device to host", "device to device"


@dataclass(frozen=True)
class Moved:
    count: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Exchanged(Moved):
    """Collectives of a kind.

    Attributes:
        beside: kernels that were launched on other streams while they ran, in all: between the collective and the first
            wait for it, of another stream or of the host. 0: nothing overlaps.
    """

    beside: int = 0


@dataclass(frozen=True)
class Launch:
    """A kernel in one set of dtypes.

    Attributes:
        name: the aclnn call's, or "aclop NAME" for an operator that has none.
        dtypes: of its tensors in the call's order, results last; a list of tensors is "{bf16 bf16}".
        shapes: of one call, in the same order.
        count: launches.
        executors: how often such a call was prepared: as graphs are compiled, and for shapes that are new.
    """

    name: str
    dtypes: str
    shapes: str
    count: int
    executors: int


@dataclass(frozen=True)
class Figures:
    """What costs time on a card, of a run or of a part of it. Bytes."""

    launches: float
    h2d: float
    h2d_bytes: float
    d2h: float
    d2h_bytes: float
    waits: float  # of the host, for a stream, an event or the device
    collectives: float

    def per_step_from(self, shorter: "Figures", steps: int) -> "Figures":
        """Of one step, from a run that has so many steps more than the other and is the same else."""
        return Figures(**{name: (value - vars(shorter)[name]) / steps for name, value in vars(self).items()})


@dataclass(frozen=True)
class Record:
    """Of one process from its start to its end.

    Attributes:
        rank: in its job.
        copies: by direction, H2D, D2H or D2D.
        waits: of the host, by what it waited for.
        collectives: by name, dtype and number of ranks. An all-gather's bytes are all it gives, a reduce-scatter's all
            it takes.
        runtime_peak: bytes that the device's runtime had handed out at most.
        pool_peak, pool_reserved: bytes that MindSpore's pool had in use at most, and had taken; None: it didn't say.
        errors: what the stand-ins could not make sense of.
        fused: launches of kernels that MindSpore's compiler made itself, for jit_level=O1; no table knows them.
        others: how often functions were asked that do nothing here.
    """

    rank: int
    launches: tuple[Launch, ...]
    copies: dict[str, Moved]
    waits: dict[str, int]
    collectives: dict[str, Exchanged]
    runtime_peak: int
    pool_peak: int | None
    pool_reserved: int | None
    errors: tuple[str, ...]
    fused: int
    others: dict[str, int]

    @property
    def figures(self) -> Figures:
        up, down = self.copies.get(H2D, Moved()), self.copies.get(D2H, Moved())
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
        """Executors by kernel, all dtypes together: more of them after the first steps means compiling again."""
        found: Counter[str] = Counter()
        for launch in self.launches:
            found[launch.name] += launch.executors
        return found


def read_records(folder: Path) -> tuple[Record, ...]:
    """Those that the processes of a run have left there, by rank; of one rank in the order of their ends."""
    files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    return tuple(sorted(map(_read, files), key=lambda record: record.rank))


def _read(file: Path) -> Record:
    raw = json.loads(file.read_text())
    notes = {name: int(value) for name, value in raw["notes"].items()}
    launches = (Launch(*row) for row in raw["kernels"])
    return Record(
        rank=raw["rank"],
        launches=tuple(sorted(launches, key=lambda launch: (launch.name, launch.dtypes))),
        copies={name: Moved(*moved) for name, moved in raw["copies"].items()},
        waits=raw["waits"],
        collectives={name: Exchanged(*moved) for name, moved in raw["collectives"].items()},
        runtime_peak=raw["peak"],
        pool_peak=notes.get("max_memory_allocated"),
        pool_reserved=notes.get("max_memory_reserved"),
        errors=(*raw["errors"], *_unseen(raw["others"])),
        fused=raw["others"].get("rtKernelLaunch", 0),
        others=raw["others"],
    )


# Of what only a stub answered: what moves data or launches something, so that the record would be wrong without it.
HARMLESS = ("HcclSetConfig", "HcclCommDestroy", "HcclGetCommAsyncError", "HcclGetCommConfigCapability")


def _unseen(others: dict[str, int]) -> Iterable[str]:
    for name, count in others.items():
        if name.startswith(("Hccl", "Hcom", "aclrtLaunch")) and name not in HARMLESS:
            yield f"{name} was called {count} times, and nothing stands in for it"
