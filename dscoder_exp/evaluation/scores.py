"""Scores: pass@k, its interval, and the comparison of two evaluations."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

CONFIDENCE = 0.95


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The unbiased estimate of the chance that one of k samples passes: 1 - C(n - c, k) / C(n, k).

    Source: Chen et al. 2021 (arXiv:2107.03374), equation 1.

    Args:
        samples: n, at least k.
        passed: c, how many of them passed.
    """
    if k > samples:
        raise ValueError(f"pass@{k} needs {k} samples, not {samples}")
    return 1 - math.comb(samples - passed, k) / math.comb(samples, k)


def wilson(passed: float, count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a proportion (JASA 22, 1927), as two fractions.

    Args:
        passed: successes of `count` attempts; with several samples a problem, the sum of the problems' fractions.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = passed / count, z * z / count
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / count + weight / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(only_one: int, only_other: int) -> float:
    """p of McNemar's exact test, two-sided: the binomial test of the problems that just one of two solved.

    Source: McNemar 1947 (Psychometrika 12); exact form: the discordant pairs are Binomial(n, 1/2).
    """
    count, least = only_one + only_other, min(only_one, only_other)
    tail = sum(math.comb(count, number) for number in range(least + 1))
    return min(1.0, 2 * tail / 2**count)


@dataclass(frozen=True)
class Score:
    """Of a suite of programs.

    Attributes:
        problems: number of problems.
        solved: the sum over problems of the fraction of samples that passed: with one sample, problems solved.
        pass_at_1: mean over problems.
        low, high: the interval of pass_at_1.
        k, pass_at_k: None with one sample a problem.
    """

    problems: int
    solved: float
    pass_at_1: float
    low: float
    high: float
    k: int | None = None
    pass_at_k: float | None = None


def score_of(counts: Iterable[tuple[int, int]], k: int | None = None) -> Score:
    """The score of problems whose numbers of samples, and of those that passed, are given; at least one problem."""
    counted = list(counts)
    solved = sum(passed / samples for samples, passed in counted)
    low, high = wilson(solved, len(counted))
    least = min(samples for samples, _ in counted)
    k = min(k or least, least)
    several = sum(pass_at_k(*pair, k) for pair in counted) / len(counted) if k > 1 else None
    return Score(len(counted), solved, solved / len(counted), low, high, k if several is not None else None, several)


@dataclass(frozen=True)
class Comparison:
    """Two evaluations of the same problems, by whether the first sample of each passed.

    Attributes:
        only_this, only_baseline: problems that just one of them solved.
        p: of McNemar's exact test.
    """

    problems: int
    only_this: int
    only_baseline: int
    p: float


def compare(this: dict[str, bool], baseline: dict[str, bool]) -> Comparison:
    """Compare what passed, by problem; both have the same problems."""
    one = sum(passed and not baseline[key] for key, passed in this.items())
    other = sum(not passed and baseline[key] for key, passed in this.items())
    return Comparison(len(this), one, other, mcnemar(one, other))
