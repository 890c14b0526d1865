"""A module for a spare worker to import: it writes the worker's process id."""

import os
from pathlib import Path

Path("warmed.txt").write_text(str(os.getpid()))
