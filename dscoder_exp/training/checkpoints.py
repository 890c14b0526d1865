"""A run's checkpoints: OUTPUT_DIR/checkpoints/step-000123, and the relative symlinks `last` and `best` to them."""

import logging
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dscoder_exp.model.llama import Llama
from dscoder_exp.parallel.collectives import Mesh
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.errors import refuse
from dscoder_exp.storage.atomic_directory import new_directory
from dscoder_exp.storage.disk_space import naming_full_disk
from dscoder_exp.training.checkpoint_directory import BEST, LAST, link, remove, step_directories, step_name
from dscoder_exp.training.moments import moments_file, write_moments
from dscoder_exp.training.resume import Resumed
from dscoder_exp.training.section_queue import SectionQueue
from dscoder_exp.training.shard_collector import ShardCollector, Shards
from dscoder_exp.training.state import Progress, TrainingState, write_state
from dscoder_exp.training.step import Step
from dscoder_exp.weights.chat_template import ModelTemplate
from dscoder_exp.weights.generation_config import GenerationConfig
from dscoder_exp.weights.lora.writer import write_adapter
from dscoder_exp.weights.native.layout import file_name
from dscoder_exp.weights.native.writer import write_model_files, write_weights

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)
# Arrays fetched from a device that may wait in host memory to be written. They are views of at most two buckets.
MAX_WAITING = 4


class Checkpoints:
    """Writes checkpoints, updates the links `last` and `best`, and removes checkpoints beyond train.keep_last.

    A checkpoint is a native one (weights/native/writer.py), or LoRA's factors alone (weights/lora/writer.py). The ranks
    of the first replica write the weights, rank 0 LoRA's factors, and every rank the optimizer moments that it owns.

    A thread writes. On the CPU training goes on meanwhile; on a device `save` returns only once all arrays are fetched,
    a few at a time. Leaving the `with` block waits for the checkpoint that was begun in it.
    """

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        tokenizer: "Tokenizer",
        template: ModelTemplate,
        lineage: dict[str, Any],
        resumed: Resumed | None = None,
        *,
        special_tokens: Mapping[str, str],
        generation: GenerationConfig,
    ) -> None:
        """
        Args:
            mesh: the ranks of the job, each of which writes its part.
            template: the prompt format that the model is trained on; None: none is recorded.
            lineage: record of the base weights and the data; each checkpoint adds its step and eval loss.
            special_tokens: the tokenizer's: "eos_token" -> its text, and so on.
            generation: the tokens that end an answer.
            resumed: the checkpoint that the run was resumed from, which isn't written again; None: a new run.

        Raises:
            Refused: output_dir isn't on storage that all ranks share.
        """
        self._directory = Path(config.output_dir) / "checkpoints"
        self._tokenizer, self._template, self._lineage = tokenizer, template, lineage
        self._special_tokens, self._generation = special_tokens, generation
        self._topology, self._keep_last = mesh.topology, config.train.keep_last
        self._max_waiting = MAX_WAITING if config.runtime.device == "ascend" else None
        self._is_main = mesh.topology.rank == 0  # rank 0 assembles each checkpoint and sets the links
        own_token = float(secrets.randbelow(2**24)) if self._is_main else 0.0  # exact in fp32
        (token,) = mesh.sums(own_token)
        self._collector = ShardCollector(int(token), mesh.topology.rank, mesh.topology.ranks)
        if mesh.topology.ranks > 1:
            _refuse_unshared(Path(config.output_dir), int(token), mesh)
        self._resumed_from = resumed and resumed.checkpoint.resolve()
        self._best_loss = resumed.state.best_loss if resumed else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None  # the checkpoint that `wait` waits for
        if resumed is not None and self._is_main:  # the run may have been killed before the links were set
            link(self._directory / LAST, resumed.checkpoint.name)
            if resumed.state.eval_loss is not None and resumed.state.eval_loss == resumed.state.best_loss:
                link(self._directory / BEST, resumed.checkpoint.name)

    def save(self, model: Llama, step: Step, eval_loss: float | None, progress: Progress | None) -> Path:
        """Begin to write a checkpoint of `model`. Its weights and moments must not change before `wait` returns.

        The complete checkpoint becomes `last`, and `best` unless an earlier eval loss was lower.

        Args:
            step: holds the optimizer state and the number of the last step.
            eval_loss: nats a token; None: it wasn't measured.
            progress: written with the moments, so that a run can be resumed; None: the weights alone are written.

        Returns:
            The checkpoint's directory, which exists once the checkpoint is complete.

        Raises:
            Refused, OSError: the checkpoint before failed; see `wait`.
        """
        target = self._directory / step_name(step.done)
        if target.resolve() != self._resumed_from:
            self.wait()
            snapshot = _Snapshot(model, step, target, eval_loss, progress, max_waiting=self._max_waiting)
            write = self._write if self._is_main else self._write_part
            self._pending = self._thread.submit(self._run_write, write, snapshot)
            snapshot.fetch(model, step)
        return target

    def wait(self) -> None:
        """Wait until the checkpoint that `save` began is complete and linked.

        Raises:
            Refused: its directory exists already or can't be created.
            OSError: it couldn't be written; DiskFull: for lack of space. Its partial directory was removed.
        """
        if self._pending is not None:
            failure = self._pending.exception()  # a signal may interrupt this: then it stays pending
            self._pending = None
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
            log.error("a checkpoint was not written: %s", failure)  # and the error of the `with` block is raised

    def _run_write(self, write: "Callable[[_Snapshot], None]", snapshot: "_Snapshot") -> None:
        """Run `write` in the thread; drain the queue even after an error, or `fetch` would block on it for ever."""
        try:
            with naming_full_disk(snapshot.target, "output_dir"):
                write(snapshot)
        finally:
            snapshot.arrays.drain()

    def _write(self, snapshot: "_Snapshot") -> None:
        """On rank 0: write its shards, collect the other ranks', write config and state, then set the links."""
        target = snapshot.target
        with new_directory(target, "output_dir") as directory:
            shards = [self._write_shards(directory, snapshot), *self._collector.collect(target, directory)]
            if snapshot.lora is None:
                self._write_model_files(directory, snapshot, shards)
            if snapshot.progress is not None:
                write_state(directory, self._state(snapshot.progress, snapshot.eval_loss, shards))
        link(self._directory / LAST, target.name)
        self.update_best(target, snapshot.eval_loss)
        self._remove_old()

    def _write_part(self, snapshot: "_Snapshot") -> None:
        """On the other ranks: write their shards into the directory that rank 0 collects them from."""
        directory = self._collector.create_directory(snapshot.target)
        self._collector.publish(snapshot.target, self._write_shards(directory, snapshot))

    def _write_shards(self, directory: Path, snapshot: "_Snapshot") -> Shards:
        """Write this rank's weights, then its moments: the order of the queue's sections."""
        return Shards(self._write_weights(directory, snapshot), self._write_moments(directory, snapshot))

    def _write_weights(self, directory: Path, snapshot: "_Snapshot") -> dict[str, dict[str, str]]:
        rank, tp_size = self._topology.tensor_rank, self._topology.tensor
        weights, hashes = snapshot.arrays.take(), {}
        if snapshot.lora is None and self._topology.replica == 0:
            hashes = {file_name(rank, tp_size): write_weights(directory, snapshot.config, weights, rank, tp_size)}
        elif snapshot.lora is not None and self._is_main:
            base = self._lineage["base"], snapshot.base
            beside = {"template": self._template, "generation": self._generation}
            adapter = directory, snapshot.config, snapshot.lora, weights
            write_adapter(*adapter, base=base, lineage=self._lineage_of(snapshot), **beside)
        for _ in weights:  # a rank that writes no weights still has to take its section to get at the moments
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
            special_tokens=self._special_tokens,
            template=self._template,
            generation=self._generation,
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

    def update_best(self, checkpoint: Path, eval_loss: float | None) -> None:
        """Link `checkpoint` as `best` unless an earlier eval loss was lower. Not to be called between save and wait."""
        if self._is_main and self._is_best(eval_loss):
            self._best_loss = eval_loss
            link(self._directory / BEST, checkpoint.name)

    def _is_best(self, eval_loss: float | None) -> bool:
        return eval_loss is not None and (self._best_loss is None or eval_loss <= self._best_loss)

    def _remove_old(self) -> None:
        """Remove checkpoints beyond train.keep_last, and partial ones that a killed process left behind."""
        ours = self._collector.directory(self._directory / "step-*").name  # other ranks may be writing the next one
        for partial in set(self._directory.glob(".step-*.partial")) - set(self._directory.glob(ours)):
            shutil.rmtree(partial)
        steps = step_directories(self._directory)
        linked = {(self._directory / name).resolve() for name in (LAST, BEST)}
        for old in steps[: -self._keep_last] if self._keep_last is not None else []:
            if old.resolve() not in linked:
                remove(old)


def _refuse_unshared(directory: Path, token: int, mesh: Mesh) -> None:
    """Raise Refused on all ranks if one of them can't see a file that rank 0 writes to `directory`."""
    probe, is_main = directory / f".{token:08x}.shared", mesh.topology.rank == 0
    if is_main:
        directory.mkdir(parents=True, exist_ok=True)
        for left in directory.glob(".????????.shared"):  # by a process that was killed meanwhile
            left.unlink()
        probe.touch()
    mesh.barrier()
    (sharing,) = mesh.sums(float(probe.exists()))
    if is_main:
        probe.unlink()
    if sharing < mesh.topology.ranks:
        ranks = mesh.topology.ranks
        what = f"{ranks - int(sharing)} of {ranks} ranks don't see what rank 0 writes to {directory}"
        raise refuse("output_dir", what, "output_dir=DIR on storage that all nodes share")


class _Snapshot:
    """One checkpoint's metadata, and the queue that its arrays pass through to the thread that writes it.

    That thread never calls MindSpore, whose queues are made for one caller. On the CPU an array is its tensor's own
    memory, no copy; from a device arrays are fetched as they are written, since all of 7B's, with moments, take 83 GB.

    Attributes:
        base: for an adapter, Llama.base_sha256, which identifies its base model.
        step: number of the last optimizer step.
        progress: as in `Checkpoints.save`.
        owned: the shards whose moments this rank owns, in bucket order.
        arrays: one section of (name, fp32 array), then, with `progress`, one of (first, second) moments of each shard
            in `owned`. The first holds this tensor rank's part of each weight, or whole LoRA factors, which are small;
            it is empty on replicas other than the first.
    """

    def __init__(
        self,
        model: Llama,
        step: Step,
        target: Path,
        eval_loss: float | None,
        progress: Progress | None,
        *,
        max_waiting: int | None,
    ) -> None:
        self.config, self.lora, self.base = model.config, model.lora, model.base_sha256
        self.target, self.step, self.eval_loss, self.progress = target, step.done, eval_loss, progress
        self.owned = model.masters.owned()
        self.arrays = SectionQueue(1 if progress is None else 2, max_waiting)

    def fetch(self, model: Llama, step: Step) -> None:
        """Put all arrays into the queue; on a device it blocks until the thread has taken most of them."""
        weights = model.masters.state() if model.lora is None else model.whole_state()
        self.arrays.put(*([weights] if self.progress is None else [weights, step.adamw.moments()]))
