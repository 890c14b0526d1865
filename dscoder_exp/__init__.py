"""Fine-tune and run DeepSeek-Coder-7B-v1.5, and smaller Llamas, on MindSpore.

From Python: `from dscoder_exp import load`. The rest is typed: `python -m dscoder_exp --help`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dscoder_exp.llm import LLM, load

__all__ = ["LLM", "load"]


def __getattr__(name: str) -> Any:
    """`load` brings MindSpore with it, which takes seconds: imported when asked for."""
    if name in __all__:
        from dscoder_exp.device.start import set_environment

        set_environment()
        from dscoder_exp import llm

        return getattr(llm, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
