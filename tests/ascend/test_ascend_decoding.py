"""Launches, copies and waits of a step of decoding: the difference of decode.py's records after few and many steps."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dryrun import DryRun, Figures, Record, Table, dry_run

DECODE = Path(__file__).with_name("decode.py")
FEW, MANY = 3, 11  # steps
DEPTHS = (2, 4)
SLOTS, VOCABULARY = 3, 512  # in decode.py
TOKENS = 4 * SLOTS  # bytes of an int32 for each slot
MOST_LAUNCHES = 12  # a block

Decode = Callable[..., DryRun]


@pytest.fixture(scope="session")
def decode(cards: None, free_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory) -> Decode:
    """decode(LAYERS, ranks=1, choice="greedy", weights="frozen") -> the dry run; equal calls share one run."""
    found: dict[tuple[object, ...], DryRun] = {}

    def run(layers: int, ranks: int = 1, choice: str = "greedy", weights: str = "frozen") -> DryRun:
        arguments = (layers, ranks, choice, weights, FEW, MANY)
        if arguments not in found:
            folder, directory = Path(sys.executable).parent, tmp_path_factory.mktemp("decode")
            counts = [f"--worker_num={ranks}", f"--local_worker_num={ranks}", "--join=True"]
            msrun = [str(folder / "msrun"), *counts, f"--log_dir={directory}", f"--master_port={free_port()}"]
            start = [sys.executable] if ranks == 1 else msrun
            variables = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
            command = [*start, str(DECODE), *map(str, arguments)]
            found[arguments] = dry_run(
                command, environment=variables, directory=directory, timeout=300, marks=(FEW, MANY)
            )
        return found[arguments]

    return run


def records_of(run: DryRun) -> tuple[Record, Record]:
    """Rank 0's records after few and many steps."""
    assert run.status == 0, run.output[-3000:]
    return run.marked[FEW][0], run.marked[MANY][0]


def step_of(decode: Decode, layers: int, **options: object) -> Figures:
    """The figures of one step after the first ones, of rank 0."""
    few, many = (record.figures for record in records_of(decode(layers, **options)))
    return many.per_step_from(few, MANY - FEW)


@pytest.mark.slow
def test_a_greedy_step_copies_only_its_tokens_and_waits_once(decode: Decode) -> None:
    for layers in DEPTHS:
        step = step_of(decode, layers)
        assert (step.h2d, step.d2h, step.d2h_bytes, step.waits) == (0, 1, TOKENS, 1)


@pytest.mark.slow
def test_a_block_launches_few_operators(decode: Decode) -> None:
    shallow, deep = (step_of(decode, layers).launches for layers in DEPTHS)
    assert 5 < (deep - shallow) / (DEPTHS[1] - DEPTHS[0]) <= MOST_LAUNCHES


@pytest.mark.slow
def test_more_steps_compile_nothing_and_prepare_no_operator(decode: Decode) -> None:
    few, many = (record.prepared() for record in records_of(decode(DEPTHS[0])))
    assert many == few


def test_a_card_has_all_operators_of_decoding(decode: Decode, table: Table) -> None:
    run = decode(DEPTHS[0])
    assert run.problems(table) == []
    names = {launch.name for launch in run.records[0].launches}
    assert {"aclnnIncreFlashAttentionV4", "aclnnPromptFlashAttentionV3", "aclnnAddRmsNorm", "aclnnArgMax"} <= names


@pytest.mark.slow
def test_a_step_of_sampling_copies_tokens_up_and_logits_down(decode: Decode) -> None:
    step = step_of(decode, DEPTHS[0], choice="sampled")
    assert (step.h2d, step.h2d_bytes) == (1, TOKENS)
    assert (step.d2h, step.d2h_bytes, step.waits) == (1, TOKENS * VOCABULARY, 1)


@pytest.mark.slow
def test_tensor_ranks_sum_twice_a_block(decode: Decode, table: Table) -> None:
    step = step_of(decode, DEPTHS[0], ranks=2)
    assert step.collectives == 2 * DEPTHS[0] + 2  # the embedding's sum, and the gathered logits
    assert (step.h2d, step.d2h, step.d2h_bytes) == (0, 1, TOKENS)
    assert decode(DEPTHS[0], ranks=2).problems(table) == []


@pytest.mark.slow
def test_weights_that_are_trained_decode_as_well(decode: Decode, table: Table) -> None:
    assert decode(DEPTHS[0], weights="trained").problems(table) == []
