"""Dry runs: run a command on MindSpore's own Ascend backend, without a card and without CANN.

The backend is in MindSpore's wheel; CANN's libraries aren't, and stand-ins (native/) replace them. Graphs are compiled
and kernels selected as for a card, and launches, copies, waits, collectives and memory are recorded. Kernels compute
nothing; their results are zeros.
"""

from .command import DryRun, dry_run, product, unavailable_reason
from .record import D2H, H2D, CollectiveCount, CopyCount, Figures, Launch, Record
from .table import Row, Table

__all__ = [
    "D2H",
    "H2D",
    "CollectiveCount",
    "CopyCount",
    "DryRun",
    "Figures",
    "Launch",
    "Record",
    "Row",
    "Table",
    "dry_run",
    "product",
    "unavailable_reason",
]
