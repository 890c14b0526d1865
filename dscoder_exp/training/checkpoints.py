"""Where a run's checkpoints lie: checkpoints/step-000123, with `last` and `best` as relative links."""

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from dscoder_exp.model.llama import Llama
from dscoder_exp.schema.config import Config
from dscoder_exp.training.adamw import AdamW
from dscoder_exp.training.resume import Resumed
from dscoder_exp.training.state import TrainingState, write_state
from dscoder_exp.weights.adapter import TELLING, sha256_of
from dscoder_exp.weights.adapter_checkpoint import save_adapter
from dscoder_exp.weights.checkpoint import save_checkpoint

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)
LAST, BEST = "last", "best"


class Checkpoints:
    """Writes checkpoints, keeps the links, and removes what is no longer kept.

    They are native ones (weights/checkpoint.py), or LoRA's factors alone (weights/adapter_checkpoint.py).
    A thread writes them, while training goes on. What was begun in a `with` is whole when that is left.
    """

    def __init__(
        self,
        config: Config,
        tokenizer: "Tokenizer",
        template: str | None,
        lineage: dict[str, Any],
        resumed: Resumed | None,
        *,
        writes: bool,
    ) -> None:
        """
        Args:
            template: the prompt format that the model learns.
            lineage: where the weights come from; each checkpoint adds its step and eval loss.
            resumed: what the run goes on from; its checkpoint isn't written again.
            writes: whether this process writes them; replicas hold the same weights, so one of them is enough.
        """
        self._directory = Path(config.output_dir) / "checkpoints"
        self._tokenizer, self._template, self._lineage = tokenizer, template, lineage
        self._writes, self._keep = writes, config.train.keep
        self._there = resumed and resumed.checkpoint
        self._best_loss = resumed.state.best_loss if resumed else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._begun: Future[None] | None = None  # until it was waited for
        if resumed is not None and writes:  # a kill may have come between a checkpoint and its links
            _link(self._directory / LAST, resumed.checkpoint.name)
            if resumed.state.eval_loss is not None and resumed.state.eval_loss == resumed.state.best_loss:
                _link(self._directory / BEST, resumed.checkpoint.name)

    def save(
        self,
        model: Llama,
        step: int,
        eval_loss: float | None,
        resumable: tuple[TrainingState, AdamW] | None,
    ) -> Path:
        """Begin to write the weights after optimizer step `step`; until `wait` neither they nor the moments may change.

        Once whole it becomes `last`, and `best` where no loss was lower.

        Args:
            resumable: what a run needs to go on from here; None: the weights alone.

        Returns:
            Where it will lie.

        Raises:
            Refused, OSError: of the checkpoint before, as `wait` does.
        """
        target = self._directory / f"step-{step:06d}"
        if self._writes and target.resolve() != self._there:
            self.wait()
            state = resumable and (resumable[0], list(resumable[1].moments()))
            self._begun = self._thread.submit(self._write, target, step, eval_loss, self._writer(model), state)
        return target

    def wait(self) -> None:
        """Return when what was begun is whole and linked.

        Raises:
            Refused: its directory exists already, or can't be made.
            OSError: it could not be written, such as on a full disk. Nothing is left of it.
        """
        if self._begun is not None:
            failure = self._begun.exception()  # a signal may break this off; then it is still to be waited for
            self._begun = None
            if failure is not None:
                raise failure

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            log.error("a checkpoint was not written: %s", failure)  # the first error is the one to raise

    def _writer(self, model: Llama) -> Callable[..., None]:
        """What writes the model as it is now.

        The thread gets arrays and never calls MindSpore, whose queues are made for one caller. On the CPU an array is
        its tensor's own memory, no copy.
        """
        tensors = list(model.state())
        if model.lora is None:
            return partial(save_checkpoint, config=model.config, tensors=tensors, tokenizer=self._tokenizer)
        base = self._lineage["base"], sha256_of(model.weight(TELLING).asnumpy())
        return partial(save_adapter, config=model.config, lora=model.lora, factors=tensors, base=base)

    def _write(
        self,
        target: Path,
        step: int,
        eval_loss: float | None,
        write: Callable[..., None],
        resumable: tuple[TrainingState, Sequence[tuple[str, Sequence[NDArray]]]] | None,
    ) -> None:
        """Runs in the thread."""

        def add(directory: Path) -> None:
            if resumable is not None:
                state, moments = resumable
                best = eval_loss if self._is_best(eval_loss) else self._best_loss
                write_state(directory, replace(state, eval_loss=eval_loss, best_loss=best), moments)

        lineage = {**self._lineage, "step": step, "eval_loss": eval_loss}
        write(target, template=self._template, lineage=lineage, add=add)
        _link(self._directory / LAST, target.name)
        self.judge(target, eval_loss)
        self._sweep()

    def judge(self, checkpoint: Path, eval_loss: float | None) -> None:
        """It becomes `best` where no loss was lower. Not to be called while another one is being written."""
        if self._writes and self._is_best(eval_loss):
            self._best_loss = eval_loss
            _link(self._directory / BEST, checkpoint.name)

    def _is_best(self, eval_loss: float | None) -> bool:
        return eval_loss is not None and (self._best_loss is None or eval_loss <= self._best_loss)

    def _sweep(self) -> None:
        """Remove the checkpoints that are no longer kept, and what a killed process had begun."""
        for left in self._directory.glob(".step-*.partial"):
            shutil.rmtree(left)
        steps = sorted(self._directory.glob("step-*"))
        linked = {(self._directory / name).resolve() for name in (LAST, BEST)}
        for old in steps[: -self._keep] if self._keep is not None else []:
            if old.resolve() not in linked:
                gone = old.with_name(f".{old.name}.partial")  # so that half a checkpoint never has a whole one's name
                old.rename(gone)
                shutil.rmtree(gone)


def _link(link: Path, target: str) -> None:
    """Point `link` at its sibling `target` in one step: a reader finds the old one or the new one."""
    fresh = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
