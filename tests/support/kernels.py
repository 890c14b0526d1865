"""The compiled C++ kernels, for commands with a cache directory of their own."""

import shutil
from pathlib import Path

from dscoder_exp.native.library import library


def share_kernels(cache: Path) -> None:
    """Copy this session's library into what will be a command's $XDG_CACHE_HOME, where compiling it takes seconds."""
    if (kernels := library().path) is not None:
        (cache / "dscoder_exp").mkdir(parents=True, exist_ok=True)
        shutil.copy(kernels, cache / "dscoder_exp")
