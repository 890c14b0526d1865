"""Training and predict, compiled unchanged for Ascend in bf16 by MindSpore's own backend, without a card.

Each launched kernel must have a row in supported.toml that allows its dtypes.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from ascend_support import RECIPE, TINY
from dryrun import DryRun, Table

FULL = ("train.recompute=full", "train.save_every=1")
LORA = "adapter=lora"
ONE_CARD = {
    "full": FULL,
    "selective": ("train.recompute=selective",),
    "none and two micro steps": ("train.recompute=none", "train.global_batch_size=2"),
    "lora with dropout": (LORA, "adapter.dropout=0.1", "train.recompute=full"),
}
SEVERAL_CARDS = {
    "dp2": ("parallel=dp2", "train.global_batch_size=2"),
    "tp2": ("parallel=tp2", "parallel.sequence=false"),
    "cp2": ("parallel=cp2",),
    "dp2_tp2 with sequence": ("parallel=dp2_tp2", "parallel.sequence=true", "train.global_batch_size=2"),
    "tp2 lora": ("parallel=tp2", LORA, "train.recompute=none"),
}
PREDICT = ("task=predict", *TINY, "runtime=ascend", "predict.prompt=sort", "predict.max_new_tokens=4")

Command = Callable[..., DryRun]


def assert_runs(run: DryRun, table: Table) -> None:
    """Assert that the run has no problems, such as an error or a kernel in dtypes that a card doesn't support."""
    assert not (found := run.problems(table)), "\n".join(found)


@pytest.mark.parametrize("name", ["full", *(pytest.param(name, marks=pytest.mark.slow) for name in list(ONE_CARD)[1:])])
def test_trains_on_one_card(command: Command, table: Table, name: str) -> None:
    """With an evaluation before and after training, and a checkpoint at the end."""
    run = command(name, *RECIPE, *ONE_CARD[name])
    assert_runs(run, table)
    assert [(record.rank, record.fused) for record in run.records] == [(0, 0)]


@pytest.mark.slow
def test_trains_with_fused_kernels(command: Command, table: Table) -> None:
    """jit_level=O1: MindSpore's compiler generates some fused kernels, which have no rows; the others are checked."""
    run = command("O1", *RECIPE, "runtime.jit_level=O1")
    assert_runs(run, table)
    assert all(record.fused for record in run.records)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEVERAL_CARDS)
def test_trains_on_several_cards(command: Command, table: Table, name: str) -> None:
    run = command(name, *RECIPE, *SEVERAL_CARDS[name])
    assert_runs(run, table)
    assert [record.rank for record in run.records] == list(range(4 if "dp2_tp2" in name else 2))
    assert all(record.collectives for record in run.records)


@pytest.mark.slow
def test_replicas_collectives_overlap_with_computation(command: Command) -> None:
    """The kernels of the next block, or the next bucket, are launched between a collective and the wait for it."""
    (record, _) = command("dp2", *RECIPE, *SEVERAL_CARDS["dp2"]).records
    sums, gathers = (record.collectives[f"{name} of 2"] for name in ("ReduceScatter fp32", "AllGather bf16"))
    assert sums.count >= 6 * 2  # buckets: embedding, head, two blocks, the blocks' norms, the final norm; two steps
    assert sums.overlapped > 5 * sums.count
    assert gathers.overlapped > gathers.count


@pytest.mark.slow
def test_resumes_from_a_checkpoint(command: Command, table: Table, outputs: Path) -> None:
    command("full", *RECIPE, *FULL)
    run = command("full", *RECIPE, *FULL, "train.max_steps=3", "train.resume=auto")
    assert_runs(run, table)
    assert (outputs / "full/checkpoints/step-000003").is_dir()


@pytest.mark.parametrize("parallel", ["single", pytest.param("tp2", marks=pytest.mark.slow)])
def test_answers_a_prompt(command: Command, table: Table, outputs: Path, parallel: str) -> None:
    command("full", *RECIPE, *FULL)
    model = f"model.path={outputs / 'full/checkpoints/step-000002'}"
    run = command(f"predict {parallel}", *PREDICT, model, f"parallel={parallel}")
    assert_runs(run, table)
