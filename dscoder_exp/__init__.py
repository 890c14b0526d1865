"""Fine-tune and run DeepSeek-Coder-7B-v1.5, and smaller Llamas, on MindSpore.

From Python: `from dscoder_exp import load`. On the command line: `python -m dscoder_exp --help`.
"""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dscoder_exp.llm import LLM, load

__all__ = ["LLM", "load"]


def __getattr__(name: str) -> Any:
    """Import `load` and `LLM` on first use: they import MindSpore, which takes seconds."""
    if name in __all__:
        from dscoder_exp.device.start import set_environment

        set_environment(reports=Path(tempfile.gettempdir(), f"mindspore-{os.getuid()}"))
        from dscoder_exp import llm

        return getattr(llm, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
