"""pass@k, its interval and McNemar's test, against numbers that were computed otherwise."""

import itertools
import math

import pytest

from dscoder_exp.evaluation.scores import compare, mcnemar, pass_at_k, score_of, wilson


@pytest.mark.parametrize(("samples", "passed", "k"), [(5, 2, 1), (5, 2, 3), (6, 0, 4), (6, 6, 2), (7, 1, 7), (8, 5, 4)])
def test_pass_at_k_is_the_share_of_choices_of_k_with_one_that_passed(samples: int, passed: int, k: int) -> None:
    choices = list(itertools.combinations(range(samples), k))
    expected = sum(any(number < passed for number in choice) for choice in choices) / len(choices)
    assert pass_at_k(samples, passed, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_of_many_samples() -> None:
    assert pass_at_k(200, 10, 1) == pytest.approx(0.05)
    product = math.prod(1 - 100 / number for number in range(191, 201))  # Chen et al.'s form for large numbers
    assert pass_at_k(200, 10, 100) == pytest.approx(1 - product, rel=1e-12)
    with pytest.raises(ValueError, match="pass@3 needs 3 samples, not 2"):
        pass_at_k(2, 1, 3)


@pytest.mark.parametrize(
    ("passed", "count", "low", "high"),
    [(0, 164, 0.0, 0.022887), (164, 164, 0.977113, 1.0), (82, 164, 0.424357, 0.575643), (20, 164, 0.080348, 0.180859)],
)
def test_wilson(passed: int, count: int, low: float, high: float) -> None:
    """Against scipy.stats.binomtest(passed, count).proportion_ci(method="wilson")."""
    assert wilson(passed, count) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize(("one", "other", "p"), [(0, 0, 1.0), (5, 5, 1.0), (1, 9, 0.021484375), (12, 4, 0.0768127)])
def test_mcnemar(one: int, other: int, p: float) -> None:
    """Against scipy.stats.binomtest(one, one + other)."""
    assert mcnemar(one, other) == mcnemar(other, one) == pytest.approx(p, abs=1e-7)


def test_scores_of_a_suite() -> None:
    score = score_of([(1, 1), (1, 0), (1, 1), (1, 1)])
    assert (score.problems, score.solved, score.pass_at_1, score.k, score.pass_at_k) == (4, 3, 0.75, None, None)
    assert (score.low, score.high) == wilson(3, 4)
    score = score_of([(4, 2), (4, 0)], k=2)
    assert (score.solved, score.pass_at_1, score.k) == (0.5, 0.25, 2)
    assert score.pass_at_k == pytest.approx((1 - 1 / 6) / 2)
    assert score_of([(4, 1), (4, 4)]).k == 4
    assert score_of([(4, 1), (2, 2)]).k == 2, "of as many as each problem has"


def test_two_evaluations_compared() -> None:
    this = {"a": True, "b": True, "c": False, "d": False}
    found = compare(this, {"a": True, "b": False, "c": True, "d": False})
    assert (found.problems, found.only_this, found.only_baseline, found.p) == (4, 1, 1, 1.0)
