"""Where a run's checkpoints lie: checkpoints/step-000123, with `last` and `best` as relative links."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dscoder_exp.model.llama import Llama
from dscoder_exp.weights.checkpoint import save_checkpoint

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Checkpoints:
    """Writes native checkpoints (weights/checkpoint.py) and keeps the links."""

    def __init__(
        self, output_dir: Path, *, tokenizer: "Tokenizer", template: str | None, lineage: dict[str, Any], writes: bool
    ) -> None:
        """
        Args:
            template: the prompt format that the model learns.
            lineage: where the weights come from; each checkpoint adds its step and eval loss.
            writes: whether this process writes them; replicas hold the same weights, so one of them is enough.
        """
        self._directory = output_dir / "checkpoints"
        self._tokenizer, self._template, self._lineage = tokenizer, template, lineage
        self._writes = writes
        self._best: float | None = None

    def save(self, model: Llama, step: int, eval_loss: float | None) -> Path:
        """Write the weights after optimizer step `step`; it becomes `last`, and `best` where no loss was lower."""
        target = self._directory / f"step-{step:06d}"
        if not self._writes:
            return target
        save_checkpoint(
            target,
            model.config,
            model.state(),
            tokenizer=self._tokenizer,
            template=self._template,
            lineage={**self._lineage, "step": step, "eval_loss": eval_loss},
        )
        _link(self._directory / "last", target.name)
        if eval_loss is not None and (self._best is None or eval_loss <= self._best):
            self._best = eval_loss
            _link(self._directory / "best", target.name)
        return target


def _link(link: Path, target: str) -> None:
    """Point `link` at its sibling `target` in one step: a reader finds the old one or the new one."""
    fresh = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
