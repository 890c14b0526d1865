"""The keys that differ, labels, groups of seeds, and the jobs of a sweep."""

from dscoder_exp.comparison.differences import differences, group_labels, groups, labels
from dscoder_exp.comparison.missing import jobs_of

SHARED = {"optim.lr": "1e-5", "model.path": "M", "seed": "0", "name": "a", "output_dir": "o"}


def test_only_what_differs_is_listed() -> None:
    found = differences(
        [SHARED, {**SHARED, "optim.lr": "2e-5", "name": "b", "output_dir": "p", "data.packing": "true"}]
    )
    assert found.keys == ["optim.lr", "data.packing"]
    assert found.values == [("1e-5", ""), ("2e-5", "true")]
    assert dict(found.common) == {"model.path": "M", "seed": "0"}
    assert labels(["a", "b"], found) == ["lr=1e-5, packing=", "lr=2e-5, packing=true"]


def test_keys_that_end_alike_are_told_apart() -> None:
    found = differences([{"model.path": "a", "adapter.path": "b"}, {"model.path": "c", "adapter.path": "d"}])
    assert labels(["x", "y"], found)[0] == "model.path=a, adapter.path=b"


def test_equal_runs_have_labels_of_their_own() -> None:
    found = differences([SHARED] * 3)
    assert labels(["one", "two", "two"], found) == ["one", "two (1)", "two (2)"]
    assert groups(found) == [0, 1, 2]
    assert group_labels(["one", "two", "two"], found, [0, 1, 2]) == ["one", "two (1)", "two (2)"]


def test_runs_of_a_group_differ_in_the_seed_alone() -> None:
    runs = [SHARED | {"seed": seed, "optim.lr": lr} for lr in ("1", "2") for seed in ("0", "1")]
    found = differences(runs)
    assert groups(found) == [0, 0, 1, 1]
    assert group_labels(["x"] * 4, found, groups(found)) == ["lr=1", "lr=2"]
    assert found.swept == ["optim.lr"]


def test_a_run_that_was_repeated_is_no_further_seed() -> None:
    runs = [SHARED | {"seed": seed} for seed in ("0", "1", "0")]
    assert groups(differences(runs)) == [0, 0, 1]


def test_the_jobs_of_a_sweep_are_told_by_its_overrides() -> None:
    assert jobs_of(["+experiment=tiny", "seed=0,1", "optim.betas=[0.9,0.95],[0.9,0.99]"]) == [
        ["+experiment=tiny", f"seed={seed}", f"optim.betas={betas}"]
        for seed in (0, 1)
        for betas in ("[0.9,0.95]", "[0.9,0.99]")
    ]
    assert jobs_of(["name=a=b=c{"]) == []
