"""fp16 with dynamic loss scaling: how the scale changes, and a model that trains as in fp32."""

import numpy as np
import pytest
from test_schedule import optim
from test_step import fresh_model, sequences

from dscoder_exp.training.loss_scale import GROWTH_INTERVAL, INITIAL_SCALE, LossScale
from dscoder_exp.training.step import Step


def test_overflow_halves_the_scale_and_a_while_without_doubles_it():
    scale = LossScale("fp16")
    assert (scale.value, scale.factor(512)) == (INITIAL_SCALE, INITIAL_SCALE / 512)
    assert scale.record_overflow()
    for _ in range(GROWTH_INTERVAL - 1):
        scale.record_finite()
    assert scale.state == (INITIAL_SCALE / 2, GROWTH_INTERVAL - 1)
    scale.record_finite()
    assert scale.state == (INITIAL_SCALE, 0)
    scale = LossScale("fp16", (2.0, 5))
    assert scale.record_overflow()
    assert scale.state == (1.0, 0)
    assert not scale.record_overflow()  # a smaller one wouldn't help


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_have_a_constant_scale_of_1(precision):
    scale = LossScale(precision)
    for _ in range(GROWTH_INTERVAL):
        scale.record_finite()
    assert (scale.value, scale.factor(512), scale.state, scale.record_overflow()) == (1.0, 1.0, None, False)


def step_in(precision):
    model = fresh_model(precision)
    return Step(model, optim(clip_norm=1.0), recompute="none"), model


def test_fp16_trains_as_fp32():
    """Loss and gradient norm agree within the rounding of fp16, at most 2^-11 of a number.

    The loss is the logarithm of a sum less a logit. Both change as much as a logit does, which is rounded last. A
    gradient's error comes from some 60 roundings of either sign, whose sum in a norm grows as the root of their number.
    """
    batch, steps = sequences(2), {precision: step_in(precision)[0] for precision in ("fp32", "fp16")}
    model = fresh_model()
    largest = np.abs(model.logits(model.inputs(batch.ids, batch.positions, batch.documents))).max()
    curves = {precision: [step([batch], 1e-3) for _ in range(5)] for precision, step in steps.items()}
    for half, single in zip(curves["fp16"], curves["fp32"], strict=True):
        assert half.loss == pytest.approx(single.loss, abs=2 * 2**-11 * largest)
        assert half.grad_norm == pytest.approx(single.grad_norm, rel=60**0.5 * 2**-11)
    assert {result.loss_scale for result in curves["fp16"]} == {INITIAL_SCALE}
    assert {result.loss_scale for result in curves["fp32"]} == {1.0}


def test_a_scale_that_is_too_large_skips_steps_until_it_fits():
    step, model = step_in("fp16")
    step.loss_scale.value = 2.0**24  # 2**24 / 96 positions is above fp16's largest number
    before = {name: array.copy() for name, array in model.masters.state()}
    results = [step([sequences(2)], 1e-3)]
    assert all(np.array_equal(array, before[name]) for name, array in model.masters.state())
    while results[-1].skipped_steps == len(results):
        results.append(step([sequences(2)], 1e-3))
    assert 3 < results[-1].skipped_steps < 20  # more in a row than MAX_NON_FINITE_STEPS
    assert [result.loss_scale for result in results] == [2.0**24 / 2**number for number in range(len(results))]
    assert np.isfinite([result.loss for result in results]).all()
    assert np.isfinite(results[-1].grad_norm)
    assert step.adamw.steps == 1
