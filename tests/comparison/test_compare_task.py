"""task=compare: what is selected, written and logged, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from comparison_support import Compare, Store, answer_table

Sweep = Callable[..., tuple[str, list[str]]]


def test_the_last_sweep_is_compared_and_logged_to_its_run(compare: Compare, store: Store, sweep: Sweep) -> None:
    sweep({"seq_length": [64, 128]})
    parent, jobs = sweep({"seq_length": [256, 512, 1024]})
    found = compare()
    assert {run["id"] for run in found.data["runs"]} == set(jobs)
    assert "compared sweep demo: 3 runs: 3 FINISHED" in found.out
    assert "best     seq_length=1024: eval/loss 0.519" in found.out
    assert f"report   {found.directory}/compare.html" in found.out
    files = {
        *("compare.html", "curves.png", "speeds.png", "runs.csv", "runs.parquet", "curves.csv", "curves.parquet"),
    }
    assert {file.name for file in found.directory.iterdir()} == files
    assert {file.path for file in store.client.list_artifacts(parent, "compare")} == {
        f"compare/{name}" for name in files
    }


def test_an_experiment_and_listed_runs_are_compared(compare: Compare, store: Store) -> None:
    runs = [store.run({"optim.lr": rate}) for rate in ("1e-4", "2e-4", "3e-4")]
    assert {run["id"] for run in compare("compare.experiment=demo").data["runs"]} == set(runs)
    listed = compare(f"compare.runs=[{runs[0]},{runs[2]}]", output="listed")
    assert {run["id"] for run in listed.data["runs"]} == {runs[0], runs[2]}
    assert listed.data["keys"] == ["optim.lr"]
    assert "artifact" not in listed.out  # there is no sweep's run to log it to


def test_one_run_is_a_report_too(compare: Compare, store: Store) -> None:
    found = compare(f"compare.runs=[{store.run(name='alone')}]")
    assert [run["label"] for run in found.data["runs"]] == ["alone"]


def test_the_page_needs_no_network_and_no_text_breaks_it(compare: Compare, store: Store) -> None:
    evil = "</script><script>alert(1)</script> ${x} é"
    for rate in ("1e-4", "2e-4"):
        store.run({"optim.lr": rate, "data.source": evil + rate}, name=evil, status="FAILED", error=evil)
    found = compare("compare.experiment=demo")
    assert evil not in found.page
    assert found.data["runs"][0]["reason"] == evil
    assert 'src="' not in found.page.rpartition("</script>")[2]
    for word in ("<link", '<script src="', "@import"):
        assert word not in found.page.partition('<script id="data"')[0]


def test_failed_and_missing_jobs_are_counted_with_the_reason(compare: Compare, store: Store) -> None:
    def of(seed: int, length: int) -> dict[str, str]:
        return {"overrides": f"+experiment=tiny\nseq_length={length}\nseed={seed}"}

    parent = store.sweep("+experiment=tiny", "seq_length=128,256", "seed=0,1", status="KILLED")
    store.run({"seq_length": 128, "seed": 0}, parent=parent, tags=of(0, 128))
    store.run(
        {"seq_length": 256, "seed": 0},
        {},
        parent=parent,
        status="FAILED",
        error="out of memory\nTraceback",
        tags=of(0, 256),
    )
    store.run({"seq_length": 128, "seed": 1}, parent=parent, tags=of(1, 128))
    found = compare()
    assert "3 runs: 2 FINISHED, 1 FAILED; 1 missing" in found.out
    assert "FAILED seed=0, seq_length=256: out of memory\n" in found.out
    assert "missing seq_length=256, seed=1: the sweep was stopped before it\n" in found.out
    assert "1 FAILED, 1 missing: the reasons" in found.page


def test_the_tables_hold_what_is_shown(compare: Compare, sweep: Sweep) -> None:
    sweep({"seq_length": [128, 256], "seed": [0, 1, 2]})
    found = compare()
    for name in ("runs", "curves", "means"):
        table = pd.read_parquet(found.directory / f"{name}.parquet")
        assert table.to_csv(index=False) == (found.directory / f"{name}.csv").read_text()
    runs = pd.read_parquet(found.directory / "runs.parquet")
    assert sorted(runs["seq_length"]) == [128] * 3 + [256] * 3
    assert list(runs[runs["best"]]["seq_length"]) == [256]
    assert runs["perf/tokens_per_s"].round().tolist() == (10.0 * runs["seq_length"]).tolist()  # the first step left out
    assert runs["perf/memory_gb"].round(2).tolist() == [2.3] * 6
    means = pd.read_parquet(found.directory / "means.parquet")
    assert set(means["n"]) == {3}
    assert set(means["configuration"]) == {"seq_length=128", "seq_length=256"}


def test_data_and_answers_are_side_by_side(compare: Compare, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.entities import Dataset, DatasetInput

    def trained(length: int, answer: str) -> None:
        report = {"rows": 10, "kept": length // 64, "fingerprint": f"f{length}", "examples": ["x"], "lengths": {}}
        texts = {"data.json": json.dumps(report), "predictions/after.md": f"## Add 1.\n\n{answer}\n\n## Why?\n\nSo.\n"}
        run = store.run({"seq_length": length, "train.prompts": '["Add 1.", "Why?"]'}, artifacts=texts)
        data = DatasetInput(Dataset("rows.json", "digest", "local", "{}"), [])
        store.client.log_inputs(run, [data])

    trained(128, "## a heading\n\n2")
    trained(256, "3")
    metrics = {"predict/answers": {0: 1.0}, "eval/loss": {0: 2.0}}
    rows = [{"prompt": "Why?", "text": "first"}, {"prompt": "Why?", "text": "second"}]
    store.run({"seq_length": 1}, metrics, artifacts={"predictions/answers.json": answer_table(rows)})
    data = compare("compare.experiment=demo").data
    assert [one["figures"] for one in data["data"]] == [
        {"rows": 10, "kept": 2, "fingerprint": "f128"},
        {"rows": 10, "kept": 4, "fingerprint": "f256"},
    ]
    by_length = {data["runs"][run]["values"][0]: index for index, run in enumerate(data["answers"]["runs"])}
    texts = dict(zip(data["answers"]["prompts"], data["answers"]["texts"], strict=True))
    assert [texts["Add 1."][by_length[length]] for length in ("128", "256", "1")] == ["## a heading\n\n2", "3", None]
    assert texts["Why?"][by_length["1"]] == "first"


def test_scores_of_different_protocols_are_not_ranked(compare: Compare, store: Store) -> None:
    def scored(rate: str, score: float, protocol: str) -> None:
        names = {"": score, "_low": score - 0.1, "_high": score + 0.1}
        metrics = {f"evaluate/pass_at_1{end}": {0: value} for end, value in names.items()}
        store.run({"optim.lr": rate}, metrics, tags={"evaluate.protocol": protocol})

    scored("1e-4", 0.5, "a")
    scored("2e-4", 0.6, "a")
    first = compare("compare.experiment=demo")
    assert "best     lr=2e-4: evaluate/pass_at_1 0.6" in first.out
    assert [one["high"] for one in first.data["scores"][0]["scores"]] == pytest.approx([0.6, 0.7])
    assert "scores.png" in {file.name for file in first.directory.iterdir()}
    scored("3e-4", 0.9, "b")
    second = compare("compare.experiment=demo", output="second")
    assert "best" not in second.out
    assert second.data["best"] is None
    assert "measured by different protocols" in second.page
    assert [(one["protocol"], len(one["scores"])) for one in second.data["scores"]] == [("a", 2), ("b", 1)]


def test_a_store_that_cant_be_written_is_compared_but_not_logged_to(
    compare: Compare, sweep: Sweep, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, _ = sweep({"seq_length": [128, 256]})
    monkeypatch.setattr(
        "dscoder_exp.tracking.reading.read_only_reason", lambda path: "attempt to write a readonly database"
    )
    found = compare()
    assert "not logged to MLflow: its store can't be written (attempt to write a readonly database)" in found.err
    assert store.client.list_artifacts(parent) == []


def test_an_unknown_experiment_suggests_the_nearest(compare: Compare, store: Store) -> None:
    store.run()
    message = compare.refused("compare.experiment=demos")
    assert "compare.experiment: 'demos' is not in the store\n      -> did you mean `demo`?" in message
    assert "there are: 'demo', 'Default'" in compare.refused("compare.experiment=other")


def test_unknown_runs_suggest_the_nearest(compare: Compare, store: Store) -> None:
    run = store.run(name="baseline")
    message = compare.refused(f"compare.runs=[{run},{run[:8]},baselin]")
    assert f"compare.runs: the store has no run '{run[:8]}'\n      -> did you mean `{run} (baseline)`?" in message
    assert f"compare.runs: the store has no run 'baselin'\n      -> did you mean `{run} (baseline)`?" in message
    store.client.delete_run(run)
    assert "was deleted" in compare.refused(f"compare.runs=[{run}]")


def test_what_is_no_sweep_is_refused(compare: Compare, store: Store, sweep: Sweep) -> None:
    alone = store.run()
    assert "compare.sweep: the store has no sweep to compare" in compare.refused()
    assert f"has no jobs\n      -> compare.runs=[{alone}]" in compare.refused(f"compare.sweep={alone}")
    parent, [job, _] = sweep({"seq_length": [128, 256]})
    assert f"has no jobs\n      -> its sweep: compare.sweep={parent}" in compare.refused(f"compare.sweep={job}")
    assert f"-> its jobs: compare.sweep={parent}" in compare.refused(f"compare.runs=[{parent}]")


def test_runs_without_common_metrics_are_refused(compare: Compare, store: Store) -> None:
    store.run(metrics={"train/loss": {1: 2.0}}, name="trained")
    store.run(metrics={"predict/tokens_per_s": {0: 9.0}}, name="predicted")
    store.run(metrics={}, name="broken", status="FAILED", error="no room\nat all")
    message = compare.refused_at_work("compare.experiment=demo")
    assert "no two of these 3 runs have a metric in common: " in message
    assert "trained (FINISHED): train/loss" in message
    assert "broken (FAILED): no room" in message
    assert not (compare.directory / "report").exists()


def test_an_experiment_without_runs_is_refused(compare: Compare, store: Store) -> None:
    assert "experiment demo has no runs" in compare.refused("compare.experiment=demo")


def test_contradictions_and_an_output_that_exists_are_refused(compare: Compare, store: Store) -> None:
    store.run()
    message = compare.refused("compare.experiment=demo", "compare.sweep=x")
    assert "compare.sweep: given beside compare.experiment" in message
    Path("there").mkdir()
    Path("there/file").touch()
    message = compare.refused("compare.experiment=demo", "compare.output=there")
    assert "compare.output: there exists already" in message


def test_a_store_that_isnt_there_is_refused(compare: Compare) -> None:
    assert "tracking.uri: mlflow.db: there is no such file, so there are no runs" in compare.refused()
    Path("mlruns").mkdir()
    assert "mlruns/ is of MLflow's old file store: `mlflow migrate-filestore --help`" in compare.refused()
    Path("text.db").write_text("no database " * 100)
    assert "tracking.uri: text.db: file is not a database" in compare.refused("tracking.uri=text.db")


def test_a_server_that_doesnt_answer_is_refused(compare: Compare, free_port: Callable[[], int]) -> None:
    message = compare.refused(f"tracking.uri=http://127.0.0.1:{free_port()}")
    assert "tracking.uri: http://127.0.0.1" in message
    assert "start the server" in message
