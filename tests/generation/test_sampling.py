"""Sampling: greedy, temperature, top_k, top_p and seed."""

import numpy as np
import pytest

from dscoder_exp.generation.sampling import Sampling

LOGITS = np.log(np.array([0.05, 0.5, 0.15, 0.3], np.float32))


def frequencies(sampling, count=4000):
    """How often each token is sampled, as a fraction of `count`."""
    sampler = sampling.sampler()
    return np.bincount([sampler(LOGITS) for _ in range(count)], minlength=4) / count


def test_greedy_takes_the_most_probable_token():
    assert Sampling().sampler()(LOGITS) == 1


def test_frequencies_follow_the_probabilities():
    assert frequencies(Sampling(temperature=1.0)) == pytest.approx(np.exp(LOGITS), abs=0.03)


def test_temperature_sharpens():
    sharp = np.exp(LOGITS / 0.5) / np.exp(LOGITS / 0.5).sum()
    assert frequencies(Sampling(temperature=0.5)) == pytest.approx(sharp, abs=0.03)


def test_top_k_keeps_k_tokens():
    assert frequencies(Sampling(temperature=1.0, top_k=2)) == pytest.approx([0, 0.625, 0, 0.375], abs=0.03)
    assert frequencies(Sampling(temperature=1.0, top_k=9))[0] > 0


def test_top_p_keeps_the_smallest_set_that_holds_p():
    assert frequencies(Sampling(temperature=1.0, top_p=0.6)) == pytest.approx([0, 0.625, 0, 0.375], abs=0.03)
    assert frequencies(Sampling(temperature=1.0, top_p=1e-6), 50)[1] == 1


def test_top_p_applies_after_top_k():
    """top_k keeps 0.5 and 0.3, renormalized 0.625 and 0.375, so the first token alone reaches 0.6."""
    assert frequencies(Sampling(temperature=1.0, top_k=2, top_p=0.6), 50)[1] == 1


def test_a_seed_gives_the_same_stream():
    one, other = (Sampling(temperature=1.0, seed=7).sampler() for _ in range(2))
    assert [one(LOGITS) for _ in range(50)] == [other(LOGITS) for _ in range(50)]
