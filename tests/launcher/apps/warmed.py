"""What a spare worker imports: it leaves its process's number."""

import os
from pathlib import Path

Path("warmed.txt").write_text(str(os.getpid()))
