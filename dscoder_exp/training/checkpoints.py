"""Where a run's checkpoints lie: checkpoints/step-000123, with `last` and `best` as relative links."""

import logging
import os
import secrets
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.model.llama import Llama
from dscoder_exp.parallel.collectives import Mesh
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.errors import refuse
from dscoder_exp.training.handover import Handover
from dscoder_exp.training.moments import moments_file, write_moments
from dscoder_exp.training.resume import Resumed
from dscoder_exp.training.shard_collector import ShardCollector
from dscoder_exp.training.state import TrainingState, write_state
from dscoder_exp.training.step import Step
from dscoder_exp.weights.lora.writer import save_adapter
from dscoder_exp.weights.native.layout import file_name
from dscoder_exp.weights.native.writer import save_checkpoint, write_slices

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)
LAST, BEST = "last", "best"
WAITING = 4  # arrays of a device that may wait in the host's memory to be written; they keep at most two buckets there


class Checkpoints:
    """Writes checkpoints, keeps the links, and removes what is no longer kept.

    They are native ones (weights/native/writer.py), or LoRA's factors alone (weights/lora/writer.py). Each rank
    writes what it owns: of weights that replicas have alike, the first one of them.
    A thread writes them, on the CPU while training goes on; from a device it is given a few arrays at a time. What was
    begun in a `with` is whole when that is left.
    """

    def __init__(
        self,
        config: Config,
        tokenizer: "Tokenizer",
        template: str | None,
        lineage: dict[str, Any],
        resumed: Resumed | None,
        mesh: Mesh,
    ) -> None:
        """
        Args:
            template: the prompt format that the model learns.
            lineage: where the weights come from; each checkpoint adds its step and eval loss.
            resumed: what the run goes on from; its checkpoint isn't written again.
            mesh: the ranks that write them together.

        Raises:
            Refused: they don't all have the same output_dir before them.
        """
        self._directory = Path(config.output_dir) / "checkpoints"
        self._tokenizer, self._template, self._lineage = tokenizer, template, lineage
        self._topology, self._keep = mesh.topology, config.train.keep_last
        self._waiting = WAITING if config.runtime.device == "ascend" else None
        self._leads = mesh.topology.rank == 0  # it puts the checkpoint together, and keeps the links
        (token,) = mesh.sums(float(secrets.randbelow(2**24)) if self._leads else 0.0)  # whole, in fp32
        self._parts = ShardCollector(int(token), mesh.topology.rank, mesh.topology.ranks)
        if mesh.topology.ranks > 1:
            _refuse_unshared(Path(config.output_dir), int(token), mesh)
        self._there = resumed and resumed.checkpoint
        self._best_loss = resumed.state.best_loss if resumed else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._begun: Future[None] | None = None  # until it was waited for
        if resumed is not None and self._leads:  # a kill may have come between a checkpoint and its links
            _link(self._directory / LAST, resumed.checkpoint.name)
            if resumed.state.eval_loss is not None and resumed.state.eval_loss == resumed.state.best_loss:
                _link(self._directory / BEST, resumed.checkpoint.name)

    def save(
        self,
        model: Llama,
        step: Step,
        eval_loss: float | None,
        state: TrainingState | None,
    ) -> Path:
        """Begin to write the weights as they are; until `wait` neither they nor the moments may change.

        Once whole it becomes `last`, and `best` where no loss was lower.

        Args:
            step: that trains the model.
            state: what a run needs, with the moments, to go on from here; None: the weights alone.

        Returns:
            Where it will lie.

        Raises:
            Refused, OSError: of the checkpoint before, as `wait` does.
        """
        target = self._directory / f"step-{step.done:06d}"
        if target.resolve() != self._there:
            self.wait()
            work = _Work(model, step, target, eval_loss, state, waiting=self._waiting)
            self._begun = self._thread.submit(work.done_by, self._write if self._leads else self._write_part)
            work.fetch(model, step)
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

    def _write_part(self, work: "_Work") -> None:
        """Runs in the thread of a rank that doesn't lead."""
        directory, files = self._parts.begin(work.target), {}
        weights, topology = None, self._topology
        if work.lora is None and topology.replica == 0:
            weights = write_slices(directory, work.config, work.weights, topology.tensor_rank, topology.tensor)
            files[file_name(topology.tensor_rank, topology.tensor)] = None
        work.weights.drain()  # LoRA's factors are whole on each tensor rank, and rank 0 writes them
        files |= self._write_moments(directory, work)
        self._parts.leave(work.target, {"weights": weights, "files": files})

    def _write_moments(self, directory: Path, work: "_Work") -> dict[str, Any]:
        """The file of this rank's moments, and what is recorded of it."""
        if work.state is None:
            return {}
        name = moments_file(self._topology.rank, self._topology.ranks)
        return {name: write_moments(directory / name, self._topology.tensor_rank, work.owned, work.moments)}

    def _write(self, work: "_Work") -> None:
        """Runs in rank 0's thread."""
        others: list[dict[str, Any]] = []

        def take(directory: Path) -> list[dict[str, str]]:
            others.extend(self._parts.take(work.target, directory))
            return [part["weights"] for part in others if part["weights"] is not None]

        def add(directory: Path) -> None:
            if work.lora is not None:
                take(directory)
            if work.state is not None:
                files = self._write_moments(directory, work)
                for part in others:
                    files |= {name: record for name, record in part["files"].items() if record is not None}
                best = work.eval_loss if self._is_best(work.eval_loss) else self._best_loss
                optimizer = {"ways": self._topology.tensor, "files": files}
                state = replace(work.state, eval_loss=work.eval_loss, best_loss=best, optimizer=optimizer)
                write_state(directory, state)

        lineage = {**self._lineage, "step": work.step, "eval_loss": work.eval_loss}
        common = {"config": work.config, "template": self._template, "lineage": lineage, "add": add}
        if work.lora is None:
            tp_size = self._topology.tensor
            files = {"tensors": work.weights, "tokenizer": self._tokenizer, "tp_size": tp_size, "others": take}
            save_checkpoint(work.target, **files, **common)
        else:
            base = self._lineage["base"], work.base
            save_adapter(work.target, lora=work.lora, factors=work.weights, base=base, **common)
        _link(self._directory / LAST, work.target.name)
        self.judge(work.target, work.eval_loss)
        self._sweep()

    def judge(self, checkpoint: Path, eval_loss: float | None) -> None:
        """It becomes `best` where no loss was lower. Not to be called while another one is being written."""
        if self._leads and self._is_best(eval_loss):
            self._best_loss = eval_loss
            _link(self._directory / BEST, checkpoint.name)

    def _is_best(self, eval_loss: float | None) -> bool:
        return eval_loss is not None and (self._best_loss is None or eval_loss <= self._best_loss)

    def _sweep(self) -> None:
        """Remove the checkpoints that are no longer kept, and what a killed process had begun."""
        ours = self._parts.directory(self._directory / "step-*").name  # another rank may be at the next one already
        for left in set(self._directory.glob(".step-*.partial")) - set(self._directory.glob(ours)):
            shutil.rmtree(left)
        steps = sorted(self._directory.glob("step-*"))
        linked = {(self._directory / name).resolve() for name in (LAST, BEST)}
        for old in steps[: -self._keep] if self._keep is not None else []:
            if old.resolve() not in linked:
                gone = old.with_name(f".{old.name}.partial")  # so that half a checkpoint never has a whole one's name
                old.rename(gone)
                shutil.rmtree(gone)


def _refuse_unshared(directory: Path, token: int, mesh: Mesh) -> None:
    """Raise Refused, on all ranks, where one doesn't see what rank 0 writes: its node has a storage of its own."""
    proof, leads = directory / f".{token:08x}.shared", mesh.topology.rank == 0
    if leads:
        directory.mkdir(parents=True, exist_ok=True)
        proof.touch()
    mesh.barrier()
    (seen,) = mesh.sums(float(proof.exists()))
    if leads:
        proof.unlink()
    if seen < mesh.topology.ranks:
        ranks = mesh.topology.ranks
        what = f"{ranks - int(seen)} of {ranks} ranks don't see what rank 0 writes to {directory}"
        raise refuse("output_dir", what, "output_dir=DIR on storage that all nodes share")


class _Work:
    """A checkpoint to be written: the model as it is now.

    The thread that writes gets arrays and never calls MindSpore, whose queues are made for one caller. On the CPU an
    array is its tensor's own memory, no copy; from a device they are fetched as they are written, since all of 7B's,
    with moments, take 83 GB.

    Attributes:
        weights: what this rank holds of them, on the first replica; of LoRA the factors, whole: they are small.
        base: of an adapter: SHA-256 of what tells the weights beside it from others.
        state: what a run needs to go on from here; None: the weights alone.
        owned, moments: with `state`: pieces of the weights, and the first and second moment of each.
    """

    def __init__(
        self,
        model: Llama,
        step: Step,
        target: Path,
        eval_loss: float | None,
        state: TrainingState | None,
        *,
        waiting: int | None,
    ) -> None:
        self.config, self.lora, self.base = model.config, model.lora, model.base_sha256
        self.target, self.step, self.eval_loss, self.state = target, step.done, eval_loss, state
        masters = model.masters
        self.owned = [shard for number in range(len(masters.buckets)) for shard in masters.shards(number)]
        self.weights: Handover[tuple[str, NDArray[np.float32]]] = Handover(waiting)
        self.moments: Handover[list[NDArray[np.float32]]] = Handover(waiting)

    def fetch(self, model: Llama, step: Step) -> None:
        """Give the thread all that it has to write."""
        weights = model.masters.state() if model.lora is None else model.whole_state()
        moments = [] if self.state is None else (pair for _, pair in step.adamw.moments())
        try:
            self.weights.give(weights)
        except BaseException:
            self.moments.give([])  # else the thread would wait for them
            raise
        self.moments.give(moments)

    def done_by(self, write: Callable[["_Work"], None]) -> None:
        """Runs in the thread."""
        try:
            write(self)
        finally:
            self.weights.drain()
            self.moments.drain()


def _link(link: Path, target: str) -> None:
    """Point `link` at its sibling `target` in one step: a reader finds the old one or the new one."""
    fresh = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
