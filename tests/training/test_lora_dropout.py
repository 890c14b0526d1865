"""Dropout of LoRA's inputs: its rate, its keys, and its gradients against finite differences."""

from pathlib import Path

import numpy as np
import pytest
from test_step import sequences

REFERENCE = Path(__file__).parents[1] / "reference"


def adapted(dropout: float):
    """tiny_gqa with an adapter that PEFT has trained, so that its B matrices aren't zero."""
    from dataclasses import replace

    from dscoder_exp.device.start import start_device
    from dscoder_exp.model.build import build
    from dscoder_exp.weights.lora.adapter import Factors, read_adapter
    from dscoder_exp.weights.source import open_weights

    start_device("cpu")
    adapter = read_adapter(str(REFERENCE / "lora_r8_all" / "adapter_after_step20"), "adapter.path")
    source = open_weights(str(REFERENCE / "tiny_gqa"))
    copies = {name: array.copy() for name, array in adapter.factors.items()}
    factors = Factors(replace(adapter.lora, dropout=dropout), copies)
    return build(source.config, source, seed=0, device="cpu", precision="fp32", factors=factors)


def gradients_of(model, key, recompute="none"):
    from dscoder_exp.training.gradients import Backpropagation

    backpropagation = Backpropagation(model, recompute)
    total = backpropagation.start()
    backpropagation.add(total, sequences(2), key)
    sums = [total.sums[number].asnumpy().copy() for number in range(len(model.masters.buckets))]
    return float(total.loss.asnumpy()[0]), sums


def test_masks_drop_at_the_rate_and_follow_from_the_key():
    from dscoder_exp.training.dropout import Dropout

    model = adapted(0.25)
    masks = [mask.asnumpy() for mask in Dropout(model, (0, 7, 1, 0)).masks(1, 512)]
    assert [mask.shape for mask in masks] == [(512, 64), (512, 64), (512, 64), (512, 176)]
    assert all(set(np.unique(mask)) == {0, np.float32(1 / 0.75)} for mask in masks)
    assert np.mean([(mask == 0).mean() for mask in masks]) == pytest.approx(0.25, abs=0.01)
    again = [mask.asnumpy() for mask in Dropout(model, (0, 7, 1, 0)).masks(1, 512)]
    assert all(map(np.array_equal, masks, again))
    for key, layer in (((0, 8, 1, 0), 1), ((0, 7, 0, 0), 1), ((0, 7, 1, 1), 1), ((0, 7, 1, 0), 0)):
        assert not np.array_equal(Dropout(model, key).masks(layer, 512)[0].asnumpy(), masks[0])
    assert Dropout(adapted(0.0), (0,)).masks(0, 512) == []


def test_training_drops_and_evaluation_does_not():
    dropping, whole = adapted(0.5), adapted(0.0)
    batch = sequences(2)
    inputs = batch.ids, batch.positions, batch.documents
    expected = whole.loss_sum(whole.inputs(*inputs, batch.labels))
    assert dropping.loss_sum(dropping.inputs(*inputs, batch.labels)) == expected
    assert gradients_of(whole, (0,))[0] == pytest.approx(expected, rel=1e-6)
    first, second = gradients_of(dropping, (0,))[0], gradients_of(dropping, (1,))[0]
    assert len({first, second, expected}) == 3


def test_gradients_equal_finite_differences_with_the_same_masks():
    """Along a random direction of all factors, by central differences."""
    model = adapted(0.3)
    _, gradients = gradients_of(model, (3, 1))
    _, recomputed = gradients_of(model, (3, 1), "full")
    for mine, theirs in zip(gradients, recomputed, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
    rng = np.random.default_rng(0)
    factors = model.masters.slices
    direction = [rng.standard_normal(factor.shape).astype(np.float32) for factor in factors]
    slope = sum(float((g.reshape(-1) * d).sum()) for g, d in zip(gradients, direction, strict=True))
    losses, before, size = [], [factor.asnumpy().copy() for factor in factors], np.float32(1e-3)
    for sign in (1, -1):
        for factor, value, step in zip(factors, before, direction, strict=True):
            factor.asnumpy()[:] = value + sign * size * step
        losses.append(gradients_of(model, (3, 1))[0])
    assert (losses[0] - losses[1]) / (2 * size) == pytest.approx(slope, rel=0.02)
