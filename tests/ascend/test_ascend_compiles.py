"""What the product does on NPUs, compiled by MindSpore's own Ascend backend in bf16 as it is, without a card.

Nothing that CANN would refuse may be launched, and nothing that no public source tells the dtypes of.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from ascend_support import RECIPE, TINY
from dryrun import DryRun, Table

FULL = ("train.recompute=full", "train.save_every=1")
LORA = "adapter=lora"
ALONE = {
    "full": FULL,
    "selective": ("train.recompute=selective",),
    "none and two micro steps": ("train.recompute=none", "train.global_batch_size=2"),
    "lora": (LORA, "train.recompute=none"),
    "lora with dropout": (LORA, "adapter.dropout=0.1", "train.recompute=full"),
}
TOGETHER = {
    "dp2": ("parallel=dp2", "train.global_batch_size=2"),
    "tp2": ("parallel=tp2", "parallel.sequence=false"),
    "tp2 with sequence": ("parallel=tp2", "parallel.sequence=true"),
    "cp2": ("parallel=cp2",),
    "dp2_tp2": ("parallel=dp2_tp2", "train.global_batch_size=2"),
    "tp2 lora": ("parallel=tp2", LORA),
}
PREDICT = ("task=predict", *TINY, "runtime=ascend", "predict.prompt=sort", "predict.max_new_tokens=4")

Command = Callable[..., DryRun]


def assert_runs(run: DryRun, table: Table) -> None:
    """A card would have run it; else all that shows that it would not is printed."""
    assert not (found := run.problems(table)), "\n".join(found)


@pytest.mark.parametrize("name", ["full", *(pytest.param(name, marks=pytest.mark.slow) for name in list(ALONE)[1:])])
def test_trains_on_one_card(command: Command, table: Table, name: str) -> None:
    """With an evaluation before and after, and a checkpoint at the end."""
    run = command(name, *RECIPE, *ALONE[name])
    assert_runs(run, table)
    assert [(record.rank, record.fused) for record in run.records] == [(0, 0)]


@pytest.mark.slow
def test_trains_with_fused_kernels(command: Command, table: Table) -> None:
    """jit_level=O1: MindSpore's compiler makes some kernels itself, which no table knows. The others keep to it."""
    run = command("O1", *RECIPE, "runtime.jit_level=O1")
    assert_runs(run, table)
    assert all(record.fused for record in run.records)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOGETHER)
def test_trains_on_several_cards(command: Command, table: Table, name: str) -> None:
    run = command(name, *RECIPE, *TOGETHER[name])
    assert_runs(run, table)
    assert [record.rank for record in run.records] == list(range(4 if name == "dp2_tp2" else 2))
    assert all(record.collectives for record in run.records)


@pytest.mark.slow
def test_replicas_sum_and_gather_beside_computing(command: Command) -> None:
    """Between a collective and the wait for it, the next block's kernels are launched, or the next bucket's."""
    (record, _) = command("dp2", *RECIPE, *TOGETHER["dp2"]).records
    sums, gathers = (record.collectives[f"{name} of 2"] for name in ("ReduceScatter fp32", "AllGather bf16"))
    assert sums.count >= 6 * 2  # buckets: both tables, two blocks, the blocks' norms, the last norm; in two steps
    assert sums.beside > 5 * sums.count
    assert gathers.beside > gathers.count


def test_goes_on_from_a_checkpoint(command: Command, table: Table, outputs: Path) -> None:
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
