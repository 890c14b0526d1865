"""A small run of the 7B recipe: its files, its MLflow run, its output."""

import json
import math
import re
import shlex
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import yaml
from mlflow_runs import Recorded
from processes import Ended
from safetensors.numpy import load_file
from tasks_support import RECIPE, STEP_METRICS, THREE_STEPS, Workspace, succeeded, summary_line

FILES = {
    *(
        "chat_template.jinja",
        "checkpoint.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ),
    *("optimizer.safetensors", "training.json"),
}


@pytest.fixture(scope="session")
def recorded(workspace: Workspace, recipe_run: Ended) -> Recorded:
    return workspace.run("finetune_8k")


def test_the_checkpoint_is_complete_and_linked(workspace: Workspace, checkpoint: Path) -> None:
    checkpoints = checkpoint.parent
    assert checkpoints.is_relative_to(workspace.directory / "multirun")
    assert {path.name for path in checkpoints.iterdir()} == {"step-000003", "last", "best"}
    assert [str((checkpoints / link).readlink()) for link in ("last", "best")] == ["step-000003"] * 2
    assert checkpoint.name == "step-000003"
    assert {path.name for path in checkpoint.iterdir()} == FILES
    config = json.loads((checkpoint / "config.json").read_text())
    weights = load_file(checkpoint / "model.safetensors")
    assert weights["model.embed_tokens.weight"].shape == (config["vocab_size"], config["hidden_size"])
    assert all(np.isfinite(weight).all() and weight.dtype == np.float32 for weight in weights.values())
    lineage = json.loads((checkpoint / "checkpoint.json").read_text())["lineage"]
    assert lineage["step"] == 3
    assert lineage["base"] == "random weights of seed 0"
    assert lineage["data"] == str(workspace.directory / "rows.json")


def test_no_other_files_are_left(workspace: Workspace, recipe_run: Ended) -> None:
    """`runs` and `*-cache` belong to other tests."""
    found = {path.name for path in workspace.directory.iterdir() if not path.name.endswith("-cache")}
    assert found - {"runs"} == {"rows.json", "mlflow.db", "mlartifacts", "multirun"}
    assert not [path for path in workspace.home.glob("msrun-*")]


def test_the_run_is_recorded(workspace: Workspace, recipe_run: Ended, checkpoint: Path, recorded: Recorded) -> None:
    assert recorded.status == "FINISHED"
    assert recorded.params["seq_length"] == "256"
    assert recorded.params["optim.lr"] == "1e-05"
    assert recorded.params["model.num_hidden_layers"] == "2"
    assert recorded.params["data.source"] == str(workspace.directory / "rows.json")
    assert not [key for key in recorded.params if key.startswith("tracking.")]
    assert recorded.tags["checkpoint"] == str(checkpoint)
    assert recorded.tags["overrides"].splitlines() == [*RECIPE, *THREE_STEPS]
    assert shlex.split(recorded.tags["command"])[1:4] == ["-m", "dscoder_exp", "+experiment=finetune_8k"]
    assert recorded.tags["version.mindspore"].startswith("2.10")
    assert "error" not in recorded.tags
    assert {path.name for path in recorded.artifacts.iterdir()} == {"config.yaml", "data.json", "data.png"}
    with sqlite3.connect(workspace.directory / "mlflow.db") as store:
        asked = "SELECT d.name FROM datasets d JOIN inputs i ON i.source_id = d.dataset_uuid WHERE i.destination_id = ?"
        assert store.execute(asked, [recorded.id]).fetchall() == [("rows.json",)]
    resolved = yaml.safe_load((recorded.artifacts / "config.yaml").read_text())
    assert resolved["optim"]["min_lr_ratio"] == 0.1
    assert resolved["train"]["max_steps"] == 3
    assert Path(resolved["output_dir"]) == checkpoint.parents[1]
    lineage = json.loads((checkpoint / "checkpoint.json").read_text())["lineage"]
    assert lineage["run_id"] == recorded.id


def test_every_step_is_measured(recorded: Recorded) -> None:
    assert recorded.metrics.keys() == STEP_METRICS | {"eval/loss", "perf/compile_time_s", "perf/mfu"}
    assert all(recorded.metrics[name].keys() == {1, 2, 3} for name in STEP_METRICS)
    assert recorded.metrics["eval/loss"].keys() == {0, 3}
    assert all(math.isfinite(value) for values in recorded.metrics.values() for value in values.values())
    # With random weights all 1,024 tokens are about equally probable.
    assert recorded.metrics["train/loss"][1] == pytest.approx(math.log(1024), abs=0.1)
    # Cosine from lr to its tenth over three steps: cos(0), cos(pi / 3), cos(2 pi / 3).
    assert recorded.values("train/lr") == pytest.approx([1e-5, 7.75e-6, 3.25e-6])
    seconds, tokens = recorded.values("perf/step_time_s"), recorded.values("perf/tokens_per_s")
    assert [s * t for s, t in zip(seconds, tokens, strict=True)] == pytest.approx([2 * 256] * 3)
    assert recorded.values("perf/tokens_per_s_per_device") == tokens
    useful, counted = recorded.values("perf/useful_tokens_per_s"), recorded.values("perf/loss_tokens_per_s")
    assert all(0 < c < u <= t for c, u, t in zip(counted, useful, tokens, strict=True))
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    vocabulary, hidden, inner, layers, heads = (int(recorded.params[f"model.{name}"]) for name in names)
    values = hidden * int(recorded.params["model.num_key_value_heads"]) // heads
    flops = 6 * (layers * (2 * hidden * (hidden + values) + 3 * hidden * inner) + vocabulary * hidden)
    assert float(recorded.tags["flops_per_token"]) == flops
    assert recorded.values("perf/mfu") == pytest.approx([flops * rate / 0.5e12 for rate in tokens])
    assert 0.1 < recorded.values("perf/memory_gb")[-1] < 20


def test_the_summary_has_losses_and_speed(workspace: Workspace, recipe_run: Ended, recorded: Recorded) -> None:
    assert "data: 40 rows, 40 kept" in recipe_run.out
    before, after = (recorded.metrics["eval/loss"][step] for step in (0, 3))
    assert summary_line(recipe_run, "eval loss") == f"{before:.4f} -> {after:.4f} nats a token"
    speed = summary_line(recipe_run, "speed")
    rate = re.match(r"(\d+) tokens/s in training \((\d+) of text, (\d+) counted by the loss\)", speed)
    assert rate is not None
    assert int(rate[1]) > int(rate[2]) > int(rate[3]) > 0
    ui = shlex.split(summary_line(recipe_run, "see the run"))
    assert Path(ui[0]).name == "mlflow"
    assert ui[1:] == ["ui", "--backend-store-uri", f"sqlite:///{workspace.directory}/mlflow.db"]


def test_nothing_else_is_printed(recipe_run: Ended) -> None:
    """Neither stream has log lines of libraries."""
    noise = re.compile(r"\[(WARNING|INFO|ERROR|CRITICAL|DEBUG)\]|Warning:|Traceback|\bINFO\b")
    assert not noise.findall(recipe_run.out + recipe_run.err)
    lines = [line for line in recipe_run.err.splitlines() if not line.startswith(" ")]
    assert lines.pop(1).startswith("kernels: ")
    assert lines == [
        "preparing the data …",
        "loading the model …",
        "eval loss before …",
        "training …",
        "eval loss after …",
        "saving the checkpoint …",
    ]


@pytest.mark.slow
def test_the_suggested_predict_command_works(workspace: Workspace, recipe_run: Ended, checkpoint: Path) -> None:
    line = summary_line(recipe_run, "try it")
    assert shlex.split(line)[1:] == [
        *["-m", "dscoder_exp", "task=predict"],
        *[f"model.path={checkpoint}", "predict.prompt=write a quick sort algorithm."],
    ]
    answered = succeeded(workspace.type(line))
    assert answered.out.strip()
    assert re.search(r"\d+ tokens, [\d.]+ tokens/s; first token after [\d.]+ s", answered.err)
    run = workspace.run("predict")
    assert run.status == "FINISHED"
    names = ("tokens_per_s", "prefill_tokens_per_s", "first_token_s", "answers", "tokens")
    assert {name: list(values) for name, values in run.metrics.items()} == {f"predict/{name}": [0] for name in names}
    assert all(value > 0 for values in run.metrics.values() for value in values.values())
    assert ", all found\n\n21 found:\n  model.embed_tokens.weight\n" in (run.artifacts / "weights.txt").read_text()
    table = json.loads((run.artifacts / "predictions" / "answers.json").read_text())
    assert table["columns"][:2] == ["prompt", "text"]
    assert [row[:2] for row in table["data"]] == [["write a quick sort algorithm.", answered.out.removesuffix("\n")]]
