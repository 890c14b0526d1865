import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dscoder_exp.schema.config import OptimConfig
from dscoder_exp.training.schedule import learning_rate


def optim(**changed):
    values = {
        "lr": 1e-3,
        "betas": [0.9, 0.95],
        "eps": 1e-8,
        "weight_decay": 0.0,
        "decay_norms": False,
        "clip_norm": None,
        "schedule": "cosine",
        "warmup_ratio": 0.0,
        "warmup_steps": None,
        "decay_ratio": 0.2,
        "min_lr_ratio": 0.1,
    }
    return OptimConfig(**(values | changed))


def test_cosine_falls_from_the_peak_to_min_lr_ratio():
    recipe = optim(lr=1e-5)
    assert learning_rate(recipe, 1, 1000) == 1e-5
    assert learning_rate(recipe, 1000, 1000) == pytest.approx(1e-6, rel=1e-3)
    assert learning_rate(recipe, 501, 1000) == pytest.approx(5.5e-6)


def test_warmup_is_linear_from_zero():
    rates = [learning_rate(optim(warmup_ratio=0.2, schedule="constant"), step, 20) for step in range(1, 7)]
    assert rates == pytest.approx([0, 0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])


def test_linear_falls_to_min_lr_ratio():
    rates = [learning_rate(optim(schedule="linear", min_lr_ratio=0.0), step, 4) for step in range(1, 5)]
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])


def test_wsd_stays_and_falls_over_the_last_steps():
    chosen = optim(schedule="wsd", warmup_steps=2, warmup_ratio=0.5, decay_ratio=0.4, min_lr_ratio=0.0)
    rates = [learning_rate(chosen, step, 10) for step in range(1, 11)]
    assert rates == pytest.approx([0, 0.5e-3, *[1e-3] * 5, 0.75e-3, 0.5e-3, 0.25e-3])


def test_wsds_stable_phase_does_not_depend_on_the_length():
    """So a resumed run that was made longer has had the same rates."""
    chosen = optim(schedule="wsd", warmup_steps=5)
    assert [learning_rate(chosen, step, 100) for step in range(1, 81)] == [
        learning_rate(chosen, step, 200) for step in range(1, 81)
    ]


SCHEDULES = ["constant", "linear", "cosine", "wsd"]


@given(st.sampled_from(SCHEDULES), st.floats(0, 0.9), st.floats(0, 1), st.integers(1, 300))
def test_any_schedule_climbs_then_never_rises_again_within_bounds(schedule, warmup, least, steps):
    chosen = optim(schedule=schedule, warmup_ratio=warmup, min_lr_ratio=least)
    rates = [learning_rate(chosen, step, steps) for step in range(1, steps + 1)]
    climb = round(warmup * steps)
    assert all(a < b for a, b in pairwise(rates[: climb + 1]))
    assert all(a >= b or math.isclose(a, b) for a, b in pairwise(rates[climb:]))
    assert all(least * 1e-3 * (1 - 1e-9) <= rate <= 1e-3 * (1 + 1e-9) for rate in rates[climb:])
