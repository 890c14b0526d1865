"""LoRA: low-rank factors that are trained beside frozen matrices. Never imports mindspore."""

from dataclasses import dataclass
from typing import Any

from dscoder_exp.schema.config import MODULES, AdapterConfig


@dataclass(frozen=True)
class Lora:
    """W x becomes W x + scale * B A x, with A [r, in] and B [out, r] (Hu et al. 2021, arXiv:2106.09685).

    Attributes:
        r: the factors' rank.
        alpha: scale * r.
        dropout: part of x's values that A doesn't see while training.
        target_modules: which matrices of every block have factors, in the order of MODULES.
    """

    r: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...]

    def __str__(self) -> str:
        return f"LoRA of rank {self.r}, alpha {self.alpha:g}, on {', '.join(self.target_modules)}"

    @property
    def scale(self) -> float:
        return self.alpha / self.r


def lora_of(adapter: AdapterConfig) -> Lora | None:
    """Of a group whose keys agree (cross.py); None with adapter=none."""
    if adapter.type == "none":
        return None
    given: Any = adapter  # nothing of it is null
    return Lora(given.r, given.alpha, given.dropout, tuple(name for name in MODULES if name in given.target_modules))
