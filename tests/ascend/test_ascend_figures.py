"""Copies, waits and launches of one training step: the difference of two runs, of which one has more steps."""

from collections.abc import Callable
from pathlib import Path

import pytest
from ascend_support import RECIPE
from dryrun import D2H, DryRun, Figures
from safetensors import safe_open

FEW, MANY = 2, 6  # optimizer steps
DEPTHS = (2, 4)
MOST_COPIES, MOST_BYTES, MOST_WAITS = 12, 200_000, 6  # per step, copies from host to device; for any number of layers
PRODUCTS = ("aclnnMm", "aclnnMatmul", "aclnnBatchMatMul")
SMALL = 100_000  # bytes: more than the losses and norms that a short run reads

Command = Callable[..., DryRun]


@pytest.fixture(scope="session")
def steps(command: Command) -> Callable[[int, int], DryRun]:
    """steps(COUNT, LAYERS) -> a run with this number of steps and layers."""

    def run(count: int, layers: int) -> DryRun:
        size = ("train.max_eval_sequences=2", f"train.max_steps={count}", f"model.num_hidden_layers={layers}")
        return command(f"{count} steps of {layers} layers", *RECIPE, *size)

    return run


@pytest.fixture(scope="session")
def step(steps: Callable[[int, int], DryRun]) -> Callable[[int], Figures]:
    """step(LAYERS) -> the figures of one step after the first ones."""

    def figures(layers: int) -> Figures:
        many, few = (steps(count, layers) for count in (MANY, FEW))
        assert (many.status, few.status) == (0, 0), many.output + few.output
        return many.records[0].figures.per_step_from(few.records[0].figures, MANY - FEW)

    return figures


@pytest.mark.slow
@pytest.mark.parametrize("layers", DEPTHS)
def test_a_step_copies_little_to_the_device_and_seldom_waits(step: Callable[[int], Figures], layers: int) -> None:
    found = step(layers)
    assert found.h2d <= MOST_COPIES
    assert found.h2d_bytes <= MOST_BYTES
    assert found.waits <= MOST_WAITS
    assert found.launches > 20 * layers  # the difference is that of whole steps


@pytest.mark.slow
def test_copies_and_waits_do_not_grow_with_the_number_of_layers(step: Callable[[int], Figures]) -> None:
    shallow, deep = (step(layers) for layers in DEPTHS)
    assert (shallow.h2d, shallow.h2d_bytes, shallow.waits) == (deep.h2d, deep.h2d_bytes, deep.waits)
    assert deep.launches > shallow.launches


def test_other_document_boundaries_compile_nothing_again(steps: Callable[[int, int], DryRun]) -> None:
    """Document boundaries differ in every step. Each compiled function has matrix products, prepared as it compiles."""
    many, few = (steps(count, DEPTHS[0]).records[0].prepared() for count in (MANY, FEW))
    assert few["aclnnMm"] > 0
    assert {name: many[name] for name in PRODUCTS} == {name: few[name] for name in PRODUCTS}


@pytest.mark.slow
def test_a_save_copies_weights_and_moments_to_the_host_once(command: Command, outputs: Path) -> None:
    run = command("saves", *RECIPE, "train.save_every=1", "train.max_eval_sequences=2")
    assert run.status == 0, run.output
    saved = sum(tensor_bytes(file) for file in outputs.glob("saves/checkpoints/step-*/*.safetensors"))
    assert saved > 1_000_000
    assert saved <= run.records[0].copies[D2H].bytes <= saved + SMALL


def tensor_bytes(file: Path) -> int:
    with safe_open(file, "numpy") as tensors:
        return sum(tensors.get_tensor(name).nbytes for name in tensors.keys())  # noqa: SIM118
