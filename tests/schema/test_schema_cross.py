"""Checks of keys against each other."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dscoder_exp.schema.cross import context_problems, cross_problems

SIZES = st.integers(1, 9)
ROWS = {"parallel.tensor": 2}


def places(config: Any) -> list[str]:
    return [problem.where for problem in cross_problems(config)]


@given(total=SIZES, micro=SIZES, data=SIZES)
def test_the_global_batch_is_a_multiple_of_the_micro_batches(typed: Any, total: int, micro: int, data: int) -> None:
    plain = typed({})
    train = replace(plain.train, global_batch_size=total, micro_batch_size=micro)
    config = replace(plain, train=train, parallel=replace(plain.parallel, data=data))
    problems = cross_problems(config)
    assert (problems == []) == (config.accumulation_steps * micro * data == total)
    for problem in problems:
        assert problem.where == "train.global_batch_size"
        named = re.match(
            r"train.global_batch_size=(\d+)(?: or (\d+))?(?:, or train.micro_batch_size=(\d+))?$", problem.remedy
        )
        assert named is not None
        *totals, smaller = named.groups()
        assert all(int(size) % (micro * data) == 0 for size in totals if size)
        assert smaller is None or total % (int(smaller) * data) == 0


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"optim.betas": [0.9]}, "optim.betas"),
        ({"optim.betas": [0.9, 0.95, 0.99]}, "optim.betas"),
        ({"runtime.device": "ascend"}, "runtime.precision"),
        ({"model.num_key_value_heads": 3}, "model.num_key_value_heads"),
        ({"model.head_dim": None, "model.hidden_size": 66}, "model.num_attention_heads"),
        ({"model.head_dim": 15}, "model.head_dim"),
        ({"model.bos_token_id": 1024}, "model.bos_token_id"),
        ({"model.eos_token_id": 5000}, "model.eos_token_id"),
        ({"seq_length": 4097, "data.packing": False}, "seq_length"),
        ({"task.in_process": True, "parallel.data": 2}, "task.in_process"),
        ({"task.name": "predict", "predict.prompt": None}, "predict.prompt"),
        ({"task.name": "predict", "predict.prompt": ""}, "predict.prompt"),
        ({"task.name": "predict", "parallel.data": 2}, "parallel.data"),
        ({"task.name": "predict", "parallel.context": 2}, "parallel.context"),
        ({"seq_length": 1023, "parallel.context": 2}, "seq_length"),
        ({"seq_length": 1023, **ROWS, "parallel.sequence": True}, "parallel.sequence"),
    ],
)
def test_a_contradiction_is_reported_at_its_key(typed: Any, changes: dict[str, Any], where: str) -> None:
    assert places(typed(changes)) == [where]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"runtime.precision": "bf16", "runtime.device": "ascend"},
        {"runtime.precision": "fp16", "runtime.device": "ascend"},
        {"runtime.device": "ascend", "task.name": "predict"},
        {"runtime.precision": "bf16"},
        {"runtime.precision": "bf16", "parallel.context": 2},
        {"runtime.precision": "fp16", "parallel.context": 2},
        {"runtime.precision": "bf16", "task.name": "predict", "parallel.tensor": 2},
        {"model.head_dim": None, "model.vocab_size": None, "model.eos_token_id": 5000},
        {"seq_length": 4096, "data.packing": False},
        {"seq_length": 8192},
        {"seq_length": 1023, **ROWS},
        {"task.name": "predict", **ROWS},
        {"parallel.context": 2, "parallel.tensor": 4, "parallel.sequence": True},
        {"seq_length": 8192, "data.packing": False, "task.name": "predict"},
        {"seq_length": 8192, "data.packing": False, "model.max_position_embeddings": None},
        {"task.name": "prepare", "task.in_process": True, "parallel.tensor": 8, "runtime.precision": "bf16"},
    ],
)
def test_keys_that_agree_are_accepted(typed: Any, changes: dict[str, Any]) -> None:
    assert places(typed(changes)) == []


@given(length=st.integers(2, 100), context=st.integers(1, 100), packing=st.booleans())
def test_only_packing_may_exceed_the_context(typed: Any, length: int, context: int, packing: bool) -> None:
    plain = typed({})
    config = replace(plain, seq_length=length, data=replace(plain.data, packing=packing))
    assert bool(context_problems(config, context)) == (length > context and not packing)
