"""Where a run's checkpoints lie: checkpoints/step-000123, with `last` and `best` as relative links."""

import logging
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dscoder_exp.model.llama import Llama
from dscoder_exp.parallel.collectives import Mesh
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.errors import refuse
from dscoder_exp.storage.atomic_directory import new_directory
from dscoder_exp.training.handover import Handover
from dscoder_exp.training.moments import moments_file, write_moments
from dscoder_exp.training.resume import Resumed
from dscoder_exp.training.shard_collector import ShardCollector, Shards
from dscoder_exp.training.state import Progress, TrainingState, write_state
from dscoder_exp.training.step import Step
from dscoder_exp.weights.lora.writer import write_adapter
from dscoder_exp.weights.native.layout import file_name
from dscoder_exp.weights.native.writer import write_model_files, write_weights

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
        mesh: Mesh,
        tokenizer: "Tokenizer",
        template: str | None,
        lineage: dict[str, Any],
        resumed: Resumed | None = None,
    ) -> None:
        """
        Args:
            mesh: the ranks that write them together.
            template: the prompt format that the model learns.
            lineage: where the weights come from; each checkpoint adds its step and eval loss.
            resumed: what the run goes on from; its checkpoint isn't written again.

        Raises:
            Refused: they don't all have the same output_dir before them.
        """
        self._directory = Path(config.output_dir) / "checkpoints"
        self._tokenizer, self._template, self._lineage = tokenizer, template, lineage
        self._topology, self._keep_last = mesh.topology, config.train.keep_last
        self._waiting = WAITING if config.runtime.device == "ascend" else None
        self._leads = mesh.topology.rank == 0  # it puts the checkpoint together, and keeps the links
        (token,) = mesh.sums(float(secrets.randbelow(2**24)) if self._leads else 0.0)  # whole, in fp32
        self._collector = ShardCollector(int(token), mesh.topology.rank, mesh.topology.ranks)
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

    def save(self, model: Llama, step: Step, eval_loss: float | None, progress: Progress | None) -> Path:
        """Begin to write the weights as they are; until `wait` neither they nor the moments may change.

        Once whole it becomes `last`, and `best` where no loss was lower.

        Args:
            step: that trains the model.
            progress: what a run needs, with the moments, to go on from here; None: the weights alone.

        Returns:
            Where it will lie.

        Raises:
            Refused, OSError: of the checkpoint before, as `wait` does.
        """
        target = self._directory / f"step-{step.done:06d}"
        if target.resolve() != self._there:
            self.wait()
            snapshot = _Snapshot(model, step, target, eval_loss, progress, waiting=self._waiting)
            self._begun = self._thread.submit(self._written, self._write if self._leads else self._write_part, snapshot)
            snapshot.fetch(model, step)
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

    def _written(self, write: "Callable[[_Snapshot], None]", snapshot: "_Snapshot") -> None:
        """Runs in the thread. Whatever ends it, nobody waits to give it arrays."""
        try:
            write(snapshot)
        finally:
            snapshot.arrays.drain()

    def _write(self, snapshot: "_Snapshot") -> None:
        """Rank 0: its own files and those of the other ranks, what describes them, and last the links to it."""
        target = snapshot.target
        with new_directory(target, "output_dir") as directory:
            shards = [self._write_shards(directory, snapshot), *self._collector.take(target, directory)]
            if snapshot.lora is None:
                self._write_model_files(directory, snapshot, shards)
            if snapshot.progress is not None:
                write_state(directory, self._state(snapshot.progress, snapshot.eval_loss, shards))
        _link(self._directory / LAST, target.name)
        self.judge(target, snapshot.eval_loss)
        self._sweep()

    def _write_part(self, snapshot: "_Snapshot") -> None:
        """Every other rank: its own files, where rank 0 will look for them."""
        directory = self._collector.begin(snapshot.target)
        self._collector.leave(snapshot.target, self._write_shards(directory, snapshot))

    def _write_shards(self, directory: Path, snapshot: "_Snapshot") -> Shards:
        """What this rank owns, in the order in which it is fetched: weights, then moments."""
        return Shards(self._write_weights(directory, snapshot), self._write_moments(directory, snapshot))

    def _write_weights(self, directory: Path, snapshot: "_Snapshot") -> dict[str, dict[str, str]]:
        rank, tp_size = self._topology.tensor_rank, self._topology.tensor
        weights, hashes = snapshot.arrays.take(), {}
        if snapshot.lora is None and self._topology.replica == 0:
            hashes = {file_name(rank, tp_size): write_weights(directory, snapshot.config, weights, rank, tp_size)}
        elif snapshot.lora is not None and self._leads:
            base = self._lineage["base"], snapshot.base
            lineage, template = self._lineage_of(snapshot), self._template
            adapter = directory, snapshot.config, snapshot.lora, weights
            write_adapter(*adapter, base=base, template=template, lineage=lineage)
        for _ in weights:  # of replicas that have the same; LoRA's factors are whole on each tensor rank
            pass
        return hashes

    def _write_moments(self, directory: Path, snapshot: "_Snapshot") -> dict[str, Any]:
        if snapshot.progress is None:
            return {}
        name = moments_file(self._topology.rank, self._topology.ranks)
        rank = self._topology.tensor_rank
        return {name: write_moments(directory / name, rank, snapshot.owned, snapshot.arrays.take())}

    def _write_model_files(self, directory: Path, snapshot: "_Snapshot", shards: Sequence[Shards]) -> None:
        write_model_files(
            directory,
            snapshot.config,
            [hashes for shard in shards for hashes in shard.weights.values()],
            tokenizer=self._tokenizer,
            template=self._template,
            lineage=self._lineage_of(snapshot),
            tp_size=self._topology.tensor,
            exclude=[name for shard in shards for name in shard.moments],
        )

    def _lineage_of(self, snapshot: "_Snapshot") -> dict[str, Any]:
        return {**self._lineage, "step": snapshot.step, "eval_loss": snapshot.eval_loss}

    def _state(self, progress: Progress, eval_loss: float | None, shards: Sequence[Shards]) -> TrainingState:
        best = eval_loss if self._is_best(eval_loss) else self._best_loss
        files = {name: record for shard in shards for name, record in shard.moments.items()}
        optimizer = {"ways": self._topology.tensor, "files": files}
        return TrainingState(**vars(progress), eval_loss=eval_loss, best_loss=best, optimizer=optimizer)

    def judge(self, checkpoint: Path, eval_loss: float | None) -> None:
        """It becomes `best` where no loss was lower. Not to be called while another one is being written."""
        if self._leads and self._is_best(eval_loss):
            self._best_loss = eval_loss
            _link(self._directory / BEST, checkpoint.name)

    def _is_best(self, eval_loss: float | None) -> bool:
        return eval_loss is not None and (self._best_loss is None or eval_loss <= self._best_loss)

    def _sweep(self) -> None:
        """Remove the checkpoints that are no longer kept, and what a killed process had begun."""
        ours = self._collector.directory(self._directory / "step-*").name  # another rank may be at the next one already
        for left in set(self._directory.glob(".step-*.partial")) - set(self._directory.glob(ours)):
            shutil.rmtree(left)
        steps = sorted(self._directory.glob("step-*"))
        linked = {(self._directory / name).resolve() for name in (LAST, BEST)}
        for old in steps[: -self._keep_last] if self._keep_last is not None else []:
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


class _Snapshot:
    """A checkpoint to be written: the model as it is now.

    The thread that writes gets arrays and never calls MindSpore, whose queues are made for one caller. On the CPU an
    array is its tensor's own memory, no copy; from a device they are fetched as they are written, since all of 7B's,
    with moments, take 83 GB.

    Attributes:
        base: of an adapter: SHA-256 of what tells the weights beside it from others.
        progress: what a run needs to go on from here; None: the weights alone.
        owned: the shards of weights whose moments this rank has.
        arrays: first (name, array) of each weight that this rank holds, on the first replica, or of LoRA the factors,
            whole, since they are small; then, with `progress`, the two moments of each shard in `owned`.
    """

    def __init__(
        self,
        model: Llama,
        step: Step,
        target: Path,
        eval_loss: float | None,
        progress: Progress | None,
        *,
        waiting: int | None,
    ) -> None:
        self.config, self.lora, self.base = model.config, model.lora, model.base_sha256
        self.target, self.step, self.eval_loss, self.progress = target, step.done, eval_loss, progress
        self.owned = model.masters.owned()
        self.arrays = Handover(1 if progress is None else 2, waiting)

    def fetch(self, model: Llama, step: Step) -> None:
        """Give the thread all that it has to write."""
        weights = model.masters.state() if model.lora is None else model.whole_state()
        self.arrays.give(*([weights] if self.progress is None else [weights, step.adamw.moments()]))


def _link(link: Path, target: str) -> None:
    """Point `link` at its sibling `target` in one step: a reader finds the old one or the new one."""
    fresh = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
