"""Continuous batching: each row gets what it gets alone; slots are refilled; beginnings are prefilled once."""

from typing import Any

import numpy as np
import pytest
from generation_support import CountingEngine
from hypothesis import given
from hypothesis import strategies as st

from dscoder_exp.generation.batching import Batch, Row
from dscoder_exp.generation.sampling import Sampling

GREEDY = Sampling()
SAMPLED = Sampling(temperature=1.0, top_k=20, repetition_penalty=1.2)


def rows_of(prompts: list[list[int]], length: int = 9, **options: Any) -> list[Row]:
    return [Row(np.array(prompt, np.int32), length, **options) for prompt in prompts]


def run(rows: list[Row], slots: int, sampling: Sampling = GREEDY) -> tuple[list[list[int]], CountingEngine]:
    engine = CountingEngine(slots)
    finished = [row for step in Batch(engine, sampling).run(rows) for row in step]  # type: ignore[arg-type]
    assert sorted(map(id, finished)) == sorted(map(id, rows))
    return [row.tokens for row in rows], engine


prompts_strategy = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=7)


@given(prompts_strategy, st.integers(1, 4), st.sampled_from([Sampling(), SAMPLED]))
def test_a_rows_tokens_are_those_that_it_has_alone(prompts: list[list[int]], slots: int, sampling: Sampling) -> None:
    options: Any = {"stop_token_ids": {7, 8, 9, 10, 11}, "seed": 3}
    alone = [run(rows_of([prompt], **options), 1, sampling)[0][0] for prompt in prompts]
    assert run(rows_of(prompts, **options), slots, sampling)[0] == alone


def test_the_slot_of_a_finished_row_is_refilled_at_once() -> None:
    rows = [Row(np.array([n], np.int32), length) for n, length in enumerate([2, 9, 2, 2, 2, 2])]
    _, engine = run(rows, 2)
    assert engine.decoded[:-3] == [2] * 5, "one row of nine tokens beside five of two"
    assert all(row.finish_reason == "length" and len(row.tokens) == row.max_new_tokens for row in rows)


def test_a_shared_beginning_is_prefilled_once() -> None:
    shared = list(range(30))
    _, engine = run(rows_of([[*shared, n] for n in range(5)]), 3)
    assert sorted(engine.prefilled) == [1, 1, 1, 1, 31]


def test_samples_of_one_prompt_prefill_it_once() -> None:
    rows = [Row(np.arange(30, dtype=np.int32), 5, sample=sample) for sample in range(4)]
    tokens, engine = run(rows, 2, SAMPLED)
    assert sorted(engine.prefilled) == [1, 1, 1, 30]
    assert len({tuple(found) for found in tokens}) == 4


def test_a_row_that_ends_with_its_first_token_leaves_its_slot_to_the_next() -> None:
    tokens, engine = run(rows_of([[1], [2], [3]], 1), 1)
    assert [len(found) for found in tokens] == [1, 1, 1]
    assert engine.decoded == []


def test_stop_tokens_end_a_row_and_belong_to_it() -> None:
    (whole,), _ = run(rows_of([[1, 2]]), 1)
    (cut,), _ = run(rows := rows_of([[1, 2]], stop_token_ids=[whole[3]]), 1)
    assert cut == whole[: whole.index(whole[3]) + 1]
    assert rows[0].finish_reason == "stop"
    assert 0 < rows[0].first_token_s <= rows[0].seconds


def test_the_time_of_compilation_is_known() -> None:
    engine = CountingEngine(1)
    batch = Batch(engine, GREEDY)  # type: ignore[arg-type]
    for _ in batch.run(rows_of([[1], [2]], 1)):
        pass
    assert (batch.compile_s, batch.prefill_compile_s) == (1, 1)
    for _ in batch.run(rows_of([[3]], 2)):
        pass
    assert (batch.compile_s, batch.prefill_compile_s) == (2, 1)
    assert Batch(engine, GREEDY).compile_s == 0  # type: ignore[arg-type]


def test_a_caller_that_leaves_early_leaves_no_row_behind() -> None:
    batch = Batch(CountingEngine(2), Sampling())  # type: ignore[arg-type]
    for _ in batch.run(rows_of([[1], [2], [3]])):
        break
    rows = rows_of([[4], [5]])
    for _ in batch.run(rows):
        pass
    assert [row.tokens for row in rows] == run(rows_of([[4], [5]]), 2)[0]


@pytest.mark.parametrize("keep", [False, True])
def test_an_answer_is_reused_only_if_it_is_kept(keep: bool) -> None:
    engine = CountingEngine()
    batch = Batch(engine, Sampling(), keep_answers=keep)  # type: ignore[arg-type]
    (row,) = rows_of([[1, 2, 3]], 5)
    for _ in batch.run([row]):
        pass
    for _ in batch.run(rows_of([[1, 2, 3, *row.tokens, 6]])):
        pass
    assert engine.prefilled == ([3, 2] if keep else [3, 6]), "the last token of an answer was never run"
