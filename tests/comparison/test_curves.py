"""Curves are thinned out without losing a spike; means over seeds are those of numpy and scipy."""

from pathlib import Path

import numpy as np
import pytest
from comparison_support import FLOPS, Compare, Store
from scipy import stats

from dscoder_exp.comparison.curves import Curve, gather
from dscoder_exp.comparison.histories import History
from dscoder_exp.comparison.runs import ComparedRun
from dscoder_exp.comparison.thinning import kept_points


def a_run(name: str, status: str = "FINISHED") -> ComparedRun:
    metrics = {"train/loss": 1.0, "eval/loss": 1.0}
    return ComparedRun(name, name, status, "1", 1000.0, 60.0, {}, {}, metrics, None)


def history(steps: list[int] | np.ndarray, values: list[float] | np.ndarray) -> History:
    steps = np.array(steps, np.int64)
    return History(steps, 1000.0 + steps, np.array(values, np.float64))


@pytest.mark.parametrize("count", [5, 100, 101, 1000, 12345])
@pytest.mark.parametrize("limit", [4, 7, 60, 100])
def test_thinning_keeps_the_ends_and_every_spike(count: int, limit: int) -> None:
    values = np.sin(np.arange(count) / 50)
    values[count // 3], values[2 * count // 3] = 100, -100
    kept = kept_points(values, limit)
    assert len(kept) <= max(limit, min(count, limit))
    assert (np.diff(kept) > 0).all()
    assert {0, count - 1} <= set(kept.tolist())
    if limit >= 7:
        assert {100.0, -100.0} <= set(values[kept].tolist())


def test_thinning_passes_over_what_is_no_number() -> None:
    values = np.full(1000, np.nan)
    values[500] = 3
    assert 3 in values[kept_points(values, 20)]


def test_a_mean_over_seeds_has_students_interval_at_the_steps_that_all_have() -> None:
    values = np.random.default_rng(0).normal(size=(3, 5))
    runs = [a_run(name) for name in "abc"]
    found = [(run.id, {"train/loss": history(np.arange(5), row)}) for run, row in zip(runs, values, strict=True)]
    found[1] = "b", {"train/loss": found[1][1]["train/loss"].at(np.arange(4))}  # it has only begun
    [mean] = gather(runs, [0, 0, 0], found).means["train/loss"]
    low, high = stats.t.interval(0.95, 2, values[:, :4].mean(axis=0), stats.sem(values[:, :4], axis=0))
    np.testing.assert_allclose(mean.mean, values[:, :4].mean(axis=0))
    np.testing.assert_allclose([mean.low, mean.high], [low, high])
    assert mean.runs == (0, 1, 2)
    assert mean.seconds.tolist() == [0, 1, 2, 3]


def test_a_failed_run_is_in_no_mean() -> None:
    runs = [a_run("a"), a_run("b", "FAILED"), a_run("c", "RUNNING")]
    found = [(run.id, {"train/loss": history([1, 2], [1, 2])}) for run in runs]
    [mean] = gather(runs, [0, 0, 0], found).means["train/loss"]
    assert mean.runs == (0, 2)
    assert not gather(runs[:2], [0, 0], found[:2]).means


def test_curves_keep_the_steps_of_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dscoder_exp.comparison.curves.ALL_POINTS", 80)
    steps = np.arange(1, 1001)
    run = a_run("a")
    of_run = {"train/loss": history(steps, 1 / steps), "eval/loss": history([0, 300, 700, 1000], [4, 3, 2, 1])}
    curves = gather([run], [0], [("a", of_run)]).curves
    [curve] = curves["train/loss"]
    assert isinstance(curve, Curve)
    assert curve.points == 1000
    assert len(curve.steps) <= 40
    assert {300, 700, 1000} <= set(curve.steps.tolist())


def test_seeds_are_found_by_themselves(compare: Compare, store: Store) -> None:
    for length in (128, 256):
        for seed in (0, 1, 2):
            store.run({"seq_length": length, "seed": seed, "output_dir": f"runs/{length}-{seed}"})
    store.run({"seq_length": 512})
    data = compare("compare.experiment=demo").data
    assert data["groups"] == ["seq_length=128", "seq_length=256", "seq_length=512"]
    assert [run["group"] for run in data["runs"]] == [0, 0, 0, 1, 1, 1, 2]
    assert data["means"]["eval/loss"]["runs"] == [[0, 1, 2], [3, 4, 5]]
    assert data["keys"] == ["seq_length", "seed"] or data["keys"] == ["seed", "seq_length"]
    assert data["swept"] == ["seq_length"]


def test_tokens_and_flops_of_a_step_are_the_configurations(compare: Compare, store: Store) -> None:
    store.run({"seq_length": 256})
    store.run({"seq_length": 512}, tags={"flops_per_token": ""})
    data = compare("compare.experiment=demo").data
    assert [run["tokensPerStep"] for run in data["runs"]] == [4 * 256, 4 * 512]
    assert [run["flopsPerStep"] for run in data["runs"]] == [4 * 256 * FLOPS, None]


def test_many_runs_stay_below_the_limit(tmp_path: Path) -> None:
    runs = [a_run(str(number)) for number in range(1000)]
    steps = np.arange(1, 1001)
    found = ((run.id, {"train/loss": history(steps, steps), "eval/loss": history(steps, steps)}) for run in runs)
    curves = gather(runs, range(1000), found).curves
    assert sum(len(curve.steps) for one in curves.values() for curve in one) <= 1.3 * 160_000
