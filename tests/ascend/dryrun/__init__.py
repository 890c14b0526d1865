"""Dry runs: a command on MindSpore's own Ascend backend, with neither a card nor CANN.

The backend lies in MindSpore's wheel. CANN's libraries, which don't, have stand-ins (native/): graphs are compiled and
kernels selected as for a card, and what would be launched, copied, waited for and held there is written down. Kernels
compute nothing; what they would have written is zeros.
"""

from .command import DryRun, dry_run, product, why_not
from .record import D2H, H2D, Exchanged, Figures, Launch, Moved, Record
from .table import Row, Table

__all__ = [
    "D2H",
    "H2D",
    "DryRun",
    "Exchanged",
    "Figures",
    "Launch",
    "Moved",
    "Record",
    "Row",
    "Table",
    "dry_run",
    "product",
    "why_not",
]
