"""Checkpoints are written while training goes on, and are complete before weights or moments change."""

import errno
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from safetensors.numpy import load_file
from test_lora_dropout import adapted
from test_schedule import optim
from test_step import fresh_model, sequences, weights
from tokenizers import Tokenizer
from tokenizers.models import BPE

from dscoder_exp.app import config_directory
from dscoder_exp.data.batch import Batch
from dscoder_exp.model.llama import Llama
from dscoder_exp.parallel.collectives import ALONE, Mesh
from dscoder_exp.parallel.topology import Topology
from dscoder_exp.schema.check import to_config
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.errors import Refused
from dscoder_exp.training import checkpoints as module
from dscoder_exp.training.checkpoints import Checkpoints
from dscoder_exp.training.state import Progress
from dscoder_exp.training.step import Step
from dscoder_exp.weights.chat_template import ModelTemplate
from dscoder_exp.weights.generation_config import GenerationConfig
from dscoder_exp.weights.lora.adapter import read_adapter
from dscoder_exp.weights.native.writer import write_weights
from dscoder_exp.weights.source import open_weights

GENERATION = GenerationConfig((1, 43), {"temperature": 0.6})
NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Four steps from random weights, with a checkpoint after each."""
    with initialize_config_dir(version_base="1.3", config_dir=str(config_directory())):
        recipe = ["+experiment=tiny", "tracking=off", "train.max_steps=4", "optim.lr=1e-3", "train.save_every=1"]
        own = [f"output_dir={tmp_path}/run", f"runtime.cache_dir={tmp_path}/cache", "train.keep_last=null"]
        return to_config(compose("config", [*recipe, *own]))


def checkpoints_of(config: Config, mesh: Mesh) -> Checkpoints:
    return Checkpoints(
        config,
        mesh,
        tokenizer=Tokenizer(BPE()),
        template=ModelTemplate("none", None, ""),
        lineage={"base": "random"},
        special_tokens={"eos_token": "<end>"},
        generation=GENERATION,
    )


class Training:
    """A model, its optimizer and its checkpoints; a step waits for the checkpoint as in task=train."""

    def __init__(
        self, config: Config, before_update: Callable[[], None] = lambda: None, model: Llama | None = None
    ) -> None:
        self.model = model or fresh_model()
        self.checkpoints = checkpoints_of(config, ALONE)
        self._before_update = before_update
        self.step = Step(self.model, optim(), recompute="none", before_update=self._wait)
        self.step([sequences(1)], 1e-3)  # so that there are moments

    def _wait(self) -> None:
        self._before_update()
        self.checkpoints.wait()

    def save(self) -> Path:
        progress = Progress(
            self.step.done,
            skipped=0,
            recipe={},
            run_id=None,
            loss_before=None,
            answers_before=[],
            loss_scale=None,
        )
        return self.checkpoints.save(self.model, self.step, None, progress)

    def now(self) -> dict[str, np.ndarray]:
        """Copies of the current weights and moments."""
        moments = {
            f"{which}.{shard.name}": moment.copy()
            for shard, both in zip(self.model.masters.owned(), self.step.adamw.moments(), strict=True)
            for which, moment in zip(("first", "second"), both, strict=True)
        }
        return weights(self.model) | moments


def read(checkpoint: Path) -> dict[str, np.ndarray]:
    return load_file(checkpoint / "model.safetensors") | load_file(checkpoint / "optimizer.safetensors")


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(found[name].tobytes() == expected[name].tobytes() for name in found)


def test_a_checkpoint_is_complete_before_the_weights_change(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing starts only once the next step's gradients are computed, and still writes the state before that step."""
    gradients_computed = threading.Event()

    def late(*arguments) -> dict[str, str]:
        assert gradients_computed.wait(60)
        return write_weights(*arguments)

    training = Training(config, gradients_computed.set)
    gradients_computed.clear()
    monkeypatch.setattr(module, "write_weights", late)
    before = training.now()
    saved = training.save()
    assert not saved.exists()
    training.step([sequences(1)], 1e-3)
    assert same(read(saved), before)
    assert not same(training.now(), before)
    assert (saved.parent / "last").resolve() == saved


def test_a_checkpoint_keeps_the_tokens_that_end_an_answer(config: Config) -> None:
    """For transformers and vLLM, too, and for adapters, which are used beside another model's files."""
    for model in None, adapted(0.0):
        own = replace(config, output_dir=f"{config.output_dir}-{model is None}")
        training = Training(own, model=model)
        saved = training.save()
        training.checkpoints.wait()
        written = json.loads((saved / "generation_config.json").read_text())
        assert (written["eos_token_id"], written["temperature"]) == ([1, 43], 0.6)
        if model is not None:
            assert read_adapter(str(saved), "adapter.path").generation.stop_token_ids == (1, 43)
            continue
        assert open_weights(str(saved)).generation.stop_token_ids == (1, 43)
        eos = training.model.config.eos_token_id
        assert json.loads((saved / "config.json").read_text())["eos_token_id"] == list(dict.fromkeys([eos, 1, 43]))
        assert json.loads((saved / "tokenizer_config.json").read_text())["eos_token"] == "<end>"


def test_an_error_surfaces_before_the_weights_change(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(config)
    good = training.save()
    training.step([sequences(1)], 1e-3)

    def full(*arguments, **named) -> None:
        raise NO_SPACE

    monkeypatch.setattr(module, "write_state", full)  # fails after the weights are written
    before = training.now()
    training.save()
    with pytest.raises(OSError, match="No space left on device"):
        training.step([sequences(1)], 1e-3)
    assert same(training.now(), before)
    assert {path.name for path in good.parent.iterdir()} == {good.name, "last"}
    assert (good.parent / "last").resolve() == good
    training.checkpoints.wait()  # raised once only
    monkeypatch.undo()
    assert training.save() == good.with_name("step-000002")
    training.checkpoints.wait()
    assert same(read(good.with_name("step-000002")), before)


def save_in_with(training: Training, error: Exception | None = None) -> None:
    """Begin a checkpoint in a `with` block that ends at once, with `error` if it is given."""
    with training.checkpoints:
        training.save()
        if error is not None:
            raise error


def test_the_end_of_a_with_block_waits(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(config)
    with pytest.raises(KeyError):
        save_in_with(training, KeyError())
    last = Path(config.output_dir) / "checkpoints" / "last"
    assert same(read(last), training.now())

    def fails(*arguments, **named) -> None:
        raise NO_SPACE

    monkeypatch.setattr(module, "write_weights", fails)
    training.step([sequences(1)], 1e-3)
    with pytest.raises(OSError, match="No space left"):
        save_in_with(training)
    with pytest.raises(KeyError):  # the first error is raised, not the checkpoint's
        save_in_with(training, KeyError())
    assert "a checkpoint was not written: [Errno 28] No space left on device" in caplog.text


def test_a_run_delays_each_update_until_the_checkpoint_is_complete(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """task=train with a writer that is slower than a step. It also orders the data by the configured seed."""
    from dscoder_exp.tasks import train

    at_save: dict[Path, dict[str, np.ndarray]] = {}

    def slow(directory, config, tensors, *of_rank) -> dict[str, str]:
        target = directory.with_name(directory.name[1:].removesuffix(".partial"))
        at_save[target] = {name: array.copy() for name, array in tensors}
        time.sleep(1)
        return write_weights(directory, config, at_save[target].items(), *of_rank)

    seeds = []

    def seeded(*arguments, usual=train.train_batches, **named) -> Iterator[Batch]:
        seeds.append(named["seed"])
        return usual(*arguments, **named)

    monkeypatch.setattr(module, "write_weights", slow)
    monkeypatch.setattr(train, "train_batches", seeded)
    train.run(replace(config, seed=7))
    assert seeds == [7]
    assert sorted(path.name for path in at_save) == [f"step-{step:06d}" for step in (1, 2, 3, 4)]
    for directory, arrays in at_save.items():
        assert same(load_file(directory / "model.safetensors"), arrays), directory


def test_few_arrays_of_a_device_wait_in_host_memory(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts the arrays that are fetched and not yet written, with a slow writer."""
    on_device = replace(config, runtime=replace(config.runtime, device="ascend"))
    training, waiting = Training(on_device), []

    def slow(directory, config, tensors, *of_rank) -> dict[str, str]:
        def one_by_one() -> Iterator[tuple[str, np.ndarray]]:
            for taken, item in enumerate(tensors, 1):
                time.sleep(0.01)
                waiting.append(fetched - taken)
                yield item

        return write_weights(directory, config, one_by_one(), *of_rank)

    fetched, state = 0, training.model.masters.state

    def counted() -> Iterator[tuple[str, np.ndarray]]:
        nonlocal fetched
        for item in state():
            fetched += 1
            yield item

    monkeypatch.setattr(module, "write_weights", slow)
    monkeypatch.setattr(training.model.masters, "state", counted)
    saved = training.save()
    training.checkpoints.wait()
    assert same(read(saved), training.now())
    assert 1 <= max(waiting) <= module.MAX_WAITING + 1 < len(waiting)


def test_a_writer_that_fails_does_not_block_save(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(replace(config, runtime=replace(config.runtime, device="ascend")))

    def fails(directory, config, tensors, *of_rank) -> None:
        next(iter(tensors))
        raise NO_SPACE

    monkeypatch.setattr(module, "write_weights", fails)
    training.save()
    with pytest.raises(OSError, match="No space left"):
        training.checkpoints.wait()


def test_an_error_while_fetching_ends_the_writer(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(replace(config, runtime=replace(config.runtime, device="ascend")))
    state = training.model.masters.state

    def breaks_off() -> Iterator[tuple[str, np.ndarray]]:
        yield next(iter(state()))
        raise MemoryError("the device has none")

    monkeypatch.setattr(training.model.masters, "state", breaks_off)
    with pytest.raises(MemoryError):
        training.save()
    with pytest.raises(ValueError, match="tensors were not written completely"):
        training.checkpoints.wait()


class SecondOfTwo(Mesh):
    """Rank 1 of two on shared storage."""

    def sums(self, *values: float) -> list[float]:
        return [2.0 for _ in values]


def test_a_rank_that_writes_no_factors_writes_its_moments(config: Config) -> None:
    """Each tensor rank gets whole factors, more than MAX_WAITING, and has to take them before its moments."""
    on_device = replace(config, runtime=replace(config.runtime, device="ascend"))
    training = Training(on_device, model=adapted(0.0))
    mesh = SecondOfTwo(Topology(1, tensor=2), "cpu")
    training.checkpoints = checkpoints_of(on_device, mesh)
    saved = training.save()
    training.checkpoints.wait()
    (written,) = saved.parent.glob(".step-*/optimizer-rank-01-of-02.safetensors")
    assert len(load_file(written)) == 2 * len(training.model.trained_shapes) > 2 * module.MAX_WAITING


class Apart(Mesh):
    """Rank 0 of two without shared storage."""

    def sums(self, *values: float) -> list[float]:
        return list(values)


def test_ranks_that_do_not_share_their_directory_are_refused(config: Config) -> None:
    with pytest.raises(
        Refused, match=r"(?s)output_dir: 1 of 2 ranks don't see what rank 0 writes to .*storage that all"
    ):
        checkpoints_of(config, Apart(Topology(0, data=2), "cpu"))
    assert not list(Path(config.output_dir).glob(".*"))
