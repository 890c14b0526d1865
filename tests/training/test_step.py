"""A step's micro batches, clipping and non-finite losses; tests/parity compares its numbers with PyTorch."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_schedule import optim

from dscoder_exp.data.batch import IGNORE_INDEX, Batch
from dscoder_exp.training.diagnosis import write_diagnosis
from dscoder_exp.training.step import NotFinite, Step
from dscoder_exp.weights.source import open_weights

REFERENCE = Path(__file__).parents[1] / "reference" / "tiny_gqa"


def fresh_model(precision="fp32"):
    from dscoder_exp.device.start import start_device
    from dscoder_exp.model.build import build

    start_device("cpu")
    source = open_weights(str(REFERENCE))
    return build(source.config, source, seed=0, device="cpu", precision=precision)


def sequences(count, seed=0, counted=0.5):
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, 120, (count, 48)).astype(np.int32)
    labels = np.where(rng.random(ids.shape) < counted, np.roll(ids, -1, 1), IGNORE_INDEX).astype(np.int32)
    positions = np.broadcast_to(np.arange(48, dtype=np.int32), ids.shape)
    return Batch(ids, labels, positions, np.zeros_like(ids))


def part(batch, rows):
    return Batch(batch.ids[rows], batch.labels[rows], batch.positions[rows], batch.documents[rows])


def weights(model):
    return {name: array.copy() for name, array in model.masters.state()}


def test_micro_batches_with_unequal_label_counts_equal_one_batch():
    """A mean of means would give the labels of a sparse micro batch more weight."""
    batch = sequences(4)
    batch.labels[2:, 5:] = IGNORE_INDEX
    whole, parts = fresh_model(), fresh_model()
    one = Step(whole, optim(), recompute="none")([batch], 1e-3)
    two = Step(parts, optim(), recompute="none")([part(batch, slice(2)), part(batch, slice(2, 4))], 1e-3)
    assert two.loss == pytest.approx(one.loss, rel=1e-6)
    assert two.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
    assert (two.tokens, two.loss_tokens) == (one.tokens, one.loss_tokens)
    expected = weights(whole)
    for name, array in parts.masters.state():
        np.testing.assert_allclose(array, expected[name], atol=2e-5, err_msg=name)


def test_clipping_scales_the_gradient_to_the_limit():
    """AdamW's first update hides the gradient's scale; the first moment shows it: (1 - beta1) * gradient."""
    steps = {}
    for clip in (None, 0.5):
        step = Step(fresh_model(), optim(clip_norm=clip), recompute="none")
        result = step([sequences(2)], 1e-3)
        moments = [first for first, _ in step.adamw.moments()]
        steps[clip] = result.grad_norm, np.sqrt(sum((m.astype(np.float64) ** 2).sum() for m in moments)) / 0.1
    assert steps[None][0] == steps[0.5][0] > 0.5
    assert steps[None][1] == pytest.approx(steps[None][0], rel=1e-4)
    assert steps[0.5][1] == pytest.approx(0.5, rel=1e-4)


def test_padding_counts_in_tokens_only():
    batch = sequences(2)
    batch.documents[:, 40:] = -1
    batch.labels[:, 39:] = IGNORE_INDEX
    result = Step(fresh_model(), optim(), recompute="full")([batch], 1e-3)
    assert (result.tokens, result.useful_tokens) == (96, 80)
    assert result.loss_tokens == (batch.labels != IGNORE_INDEX).sum()


def test_a_step_with_a_nan_loss_changes_nothing_and_the_third_in_a_row_raises(tmp_path):
    model = fresh_model()
    step = Step(model, optim(), recompute="none")
    whole = model.norm.asnumpy().copy()
    results = []
    for broken in (True, True, False, True, True):  # never three in a row
        model.norm[0] = float("nan") if broken else float(whole[0])
        before = weights(model)
        results.append(step([sequences(1)], 1e-3))
        same = all(np.array_equal(array, before[name], equal_nan=True) for name, array in model.masters.state())
        assert same == broken
    assert [np.isfinite(result.loss) for result in results] == [False, False, True, False, False]
    assert [result.skipped_steps for result in results] == [1, 2, 2, 3, 4]
    assert (step.done, step.skipped, step.adamw.steps) == (5, 4, 1)
    with pytest.raises(NotFinite, match=r"in 3 steps in a row: lower optim\.lr, or look at the data") as caught:
        step([sequences(1)], 1e-3)
    directory = write_diagnosis(tmp_path, model, caught.value, 6)
    assert str(caught.value).endswith(f"; see {directory}")
    numbers = json.loads((directory / "numbers.json").read_text())
    assert numbers["step"] == 6
    assert numbers["weights_not_finite"] == ["model.norm.weight"]
    assert "model.embed_tokens.weight" in numbers["gradients_not_finite"]
    assert np.array_equal(np.load(directory / "batch-0.npz")["ids"], sequences(1).ids)
