"""Sampling: greedy, transformers' definitions in transformers' order, and seeds."""

import numpy as np
import pytest

from dscoder_exp.generation.sampling import Sampler, Sampling

LOGITS = np.log(np.array([[0.05, 0.5, 0.15, 0.3]], np.float32))
NOTHING = np.empty(0, np.int32)
# Two rows of logits and the ids before them; what transformers 5.24 makes of them (softmax of the scores), by the
# classes RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper and
# MinPLogitsWarper, and by all of them in the order of GenerationMixin._get_logits_processor.
TWO = np.array([[2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.5], [0.3, -0.2, 2.2, 2.2, -3.0, 0.9, 0.1, -0.4]], np.float32)
IDS = [[0, 5, 5], [2, 4, 7]]
TRANSFORMERS = [
    (
        {"temperature": 0.7},
        [0.512148, 0.250718, 0.122737, 0.060085, 0.029414, 0.014399, 0.007049, 0.003451],
        [0.02844, 0.013922, 0.429266, 0.429266, 0.000255, 0.067016, 0.021372, 0.010462],
    ),
    ({"top_k": 3}, [0.50648, 0.307196, 0.186324, 0, 0, 0, 0, 0], [0, 0, 0.440038, 0.440038, 0, 0.119924, 0, 0]),
    (
        {"top_p": 0.8},
        [0.455054, 0.276004, 0.167405, 0.101536, 0, 0, 0, 0],
        [0, 0, 0.440038, 0.440038, 0, 0.119924, 0, 0],
    ),
    (
        {"min_p": 0.2},
        [0.455054, 0.276004, 0.167405, 0.101536, 0, 0, 0, 0],
        [0, 0, 0.440038, 0.440038, 0, 0.119924, 0, 0],
    ),
    (
        {"repetition_penalty": 1.3},
        [0.298186, 0.286935, 0.174035, 0.105558, 0.064024, 0.033423, 0.023553, 0.014286],
        [0.064881, 0.039352, 0.261089, 0.433788, 0.000973, 0.118221, 0.053119, 0.028576],
    ),
    (
        {"repetition_penalty": 1.3, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1},
        [0.379255, 0.358979, 0.175735, 0.08603, 0, 0, 0, 0],
        [0, 0, 0.295183, 0.609641, 0, 0.095176, 0, 0],
    ),
]


def scores_of(sampling, logits, seen=None):
    """Scores [n, V], -inf for tokens that are left out."""
    found = sampling.candidates(logits if seen is None else sampling.penalized(logits, seen))
    scores = np.full(logits.shape, -np.inf)
    ids = np.broadcast_to(np.arange(logits.shape[1]), logits.shape) if found.ids is None else found.ids
    rows, places = np.nonzero(np.isfinite(found.scores))
    scores[rows, ids[rows, places]] = found.scores[rows, places]
    return scores


def softmax(scores):
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def sampler_of(sampling, seed=0, ids=NOTHING):
    sampler = Sampler(sampling, 1)
    sampler.begin(0, ids, seed, 0)
    return lambda logits=LOGITS: int(sampler([0], logits)[0])


def frequencies(sampling, count=4000):
    """How often each token is sampled, as a fraction of `count`."""
    draw = sampler_of(sampling)
    return np.bincount([draw() for _ in range(count)], minlength=4) / count


@pytest.mark.parametrize(("settings", "first", "second"), TRANSFORMERS, ids=[str(case[0]) for case in TRANSFORMERS])
def test_the_probabilities_are_transformers(settings, first, second):
    seen = np.zeros(TWO.shape, np.bool_)
    for row, ids in enumerate(IDS):
        seen[row, ids] = True
    sampling = Sampling(**{"temperature": 1.0, **settings})
    assert softmax(scores_of(sampling, TWO, seen)) == pytest.approx(np.array([first, second]), abs=2e-6)


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 0.999])
def test_top_p_sorts_no_more_than_it_has_to(top_p):
    """Of a large vocabulary, flat and peaked, it keeps what sorting all of it keeps."""
    rng = np.random.default_rng(0)
    logits = np.stack([rng.normal(0, spread, 5000) for spread in (0, 1e-3, 1, 8)]).astype(np.float32)
    probabilities = softmax(logits.astype(np.float64))
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ordered = np.take_along_axis(probabilities, order, 1)
    counts = ((np.cumsum(ordered, 1) - ordered) < top_p).sum(1)
    kept = np.isfinite(scores_of(Sampling(temperature=1.0, top_p=top_p), logits)).sum(1)
    assert kept == pytest.approx(counts, abs=1), "one may lie on the border"


@pytest.mark.parametrize("k", [1, 3, 40, 700, 4999])
def test_top_k_keeps_the_largest_and_their_equals(k):
    """Of a vocabulary that isn't a multiple of anything, with and without equal scores."""
    rng = np.random.default_rng(k)
    logits = np.stack([rng.normal(size=5003), rng.integers(0, 900, 5003), np.zeros(5003)]).astype(np.float32)
    kept = np.isfinite(scores_of(Sampling(temperature=1.0, top_k=k), logits))
    assert np.array_equal(kept, logits >= np.sort(logits, 1)[:, -k, None])


def test_greedy_takes_the_most_probable_token():
    assert sampler_of(Sampling())() == 1
    assert sampler_of(Sampling(temperature=1e-300))() == 1


@pytest.mark.parametrize("top_p", [0.0, 1e-9])
@pytest.mark.parametrize("settings", [{}, {"top_k": 1}, {"temperature": 1e30}])
def test_the_least_top_p_leaves_one(top_p, settings):
    scores = scores_of(Sampling(**{"temperature": 1.0, **settings}, top_p=top_p), LOGITS)
    assert np.isfinite(scores).sum() == 1


def test_top_k_of_0_is_no_limit():
    assert np.isfinite(scores_of(Sampling(temperature=1.0, top_k=0), LOGITS)).all()


def test_a_penalty_counts_for_greedy_decoding_and_for_what_was_generated():
    draw = sampler_of(Sampling(repetition_penalty=2.0), ids=np.array([1], np.int32))
    logits = np.array([[0.1, 3.0, 2.0, 1.6]], np.float32)
    assert [draw(logits) for _ in range(3)] == [2, 3, 1]


def test_frequencies_follow_the_probabilities():
    assert frequencies(Sampling(temperature=1.0)) == pytest.approx(np.exp(LOGITS[0]), abs=0.03)


def test_frequencies_of_what_is_left():
    assert frequencies(Sampling(temperature=1.0, top_k=2)) == pytest.approx([0, 0.625, 0, 0.375], abs=0.03)
    assert frequencies(Sampling(temperature=1.0, top_p=1e-6), 50)[1] == 1
    assert frequencies(Sampling(temperature=1.0, top_k=9))[0] > 0, "more than there are"


def test_what_is_drawn_depends_on_seed_prompt_and_sample_alone():
    sampling, prompt, other = Sampling(temperature=1.0), np.array([3, 1], np.int32), np.array([3, 2], np.int32)

    def drawn(slots, slot, ids, seed, sample):
        sampler = Sampler(sampling, slots)
        sampler.begin(slot, ids, seed, sample)
        return [int(sampler([slot], LOGITS)[0]) for _ in range(40)]

    once = drawn(1, 0, prompt, 7, 0)
    assert drawn(3, 2, prompt, 7, 0) == once
    assert once not in [drawn(1, 0, other, 7, 0), drawn(1, 0, prompt, 8, 0), drawn(1, 0, prompt, 7, 1)]


def test_slots_draw_from_generators_of_their_own():
    sampling, rng = Sampling(temperature=1.0, repetition_penalty=1.5), np.random.default_rng(0)
    prompts = [np.array([n], np.int32) for n in range(3)]
    logits = rng.normal(size=(20, 3, 50)).astype(np.float32)
    together = Sampler(sampling, 3)
    for slot, ids in enumerate(prompts):
        together.begin(slot, ids, 1, 0)
    found = np.array([together([0, 1, 2], step) for step in logits])
    for slot, ids in enumerate(prompts):
        alone = Sampler(sampling, 1)
        alone.begin(0, ids, 1, 0)
        assert [int(alone([0], step[slot : slot + 1])[0]) for step in logits] == found[:, slot].tolist()
