"""adapter=lora on the command line: training, stopping and resuming, predict with it, merging by convert."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine
from safetensors.numpy import load_file
from tasks_support import RECIPE, Workspace, named, succeeded

pytestmark = pytest.mark.slow

STEPS = 6
LORA = ["adapter=lora", "adapter.r=4", "adapter.dropout=0.1", "parallel=single", "optim.lr=1e-2"]
RUN = [*RECIPE, *LORA, f"train.max_steps={STEPS}", "train.save_every=2", "train.eval_every=3"]
ASK = [
    "task=predict",
    "task.in_process=true",
    "predict.prompt=Write a function.",
    "predict.max_new_tokens=16",
    "tracking=off",
]


@pytest.fixture(scope="session")
def base(workspace: Workspace, untrained: Path) -> str:
    """The base model of the adapters."""
    shutil.copytree(untrained, workspace.directory / "runs/base/checkpoints/last")
    return "runs/base/checkpoints/last"


@pytest.fixture(scope="session")
def adapter(workspace: Workspace, base: str) -> str:
    ended = succeeded(workspace(*RUN, f"model.path={base}", *named("adapter")))
    assert "LoRA of rank 4, alpha 32, on q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj: " in ended.out
    assert f"task=predict model.path={workspace.directory / base} adapter.path=" in ended.out
    return "runs/adapter/checkpoints/last"


def test_the_checkpoint_is_an_adapter_in_pefts_format(workspace: Workspace, base: str, adapter: str) -> None:
    saved = workspace.directory / adapter
    assert sorted(file.name for file in saved.iterdir()) == [
        "adapter.json",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "generation_config.json",
        "optimizer.safetensors",
        "training.json",
    ]
    config = json.loads((saved / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["lora_dropout"]) == ("LORA", 4, 32, 0.1)
    assert config["base_model_name_or_path"] == str(workspace.directory / base)
    factors = load_file(saved / "adapter_model.safetensors")
    assert len(factors) == 2 * 7 * 2
    assert factors["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"].shape == (4, 176)
    assert factors["base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight"].shape == (32, 4)
    moments = load_file(saved / "optimizer.safetensors")
    assert len(moments) == 2 * len(factors)  # none for the base model
    losses = workspace.run("adapter").values("eval/loss")
    assert losses[-1] < losses[0] - 0.01


def test_tensor_parallel_ranks_save_one_adapter(
    workspace: Workspace, base: str, adapter: str, assert_learnt_alike: Callable[..., None]
) -> None:
    succeeded(workspace(*RUN, f"model.path={base}", "parallel=tp2", "tracking=off", "output_dir=runs/adapter-shared"))
    file = "checkpoints/last/adapter_model.safetensors"
    found, reference = (
        load_file(workspace.directory / f"runs/{name}/{file}") for name in ("adapter-shared", "adapter")
    )
    assert found.keys() == reference.keys()
    for name, factor in reference.items():
        assert_learnt_alike(found[name], factor, rate=1e-2, steps=STEPS, rows=256, name=name)


def test_a_stopped_and_resumed_run_ends_with_the_same_bits(
    workspace: Workspace, refused: Callable[..., str], base: str, adapter: str
) -> None:
    command = [*RUN, f"model.path={base}", *named("lora-stopped"), "train.resume=auto"]
    started = workspace.start(*command)
    started.wait_for(workspace.directory / "runs" / "lora-stopped" / "checkpoints" / "last")
    started.process.send_signal(signal.SIGTERM)
    assert started.wait().code == 143

    assert "model.path: " in refused(*command, f"model.path={base}/../../../halves")  # a path without a model
    assert "adapter.dropout: 0.0, but " in refused(*command, "adapter.dropout=0.0")
    other = refused("task=train", *RUN, "model=tiny", *named("lora-stopped"), "train.resume=auto")
    assert "was trained on a base model other than" in other

    succeeded(workspace(*command))
    found, expected = workspace.run("lora-stopped"), workspace.run("adapter")
    for metric in ("train/loss", "train/grad_norm", "eval/loss"):
        assert found.metrics[metric] == expected.metrics[metric]
    for file in ("adapter_model.safetensors", "optimizer.safetensors"):
        ours, theirs = (
            workspace.directory / "runs" / run / "checkpoints" / "last" / file for run in ("lora-stopped", "adapter")
        )
        assert ours.read_bytes() == theirs.read_bytes(), file


def test_predict_with_an_adapter_equals_predict_with_merged_weights(
    workspace: Workspace, here: CommandLine, base: str, adapter: str
) -> None:
    beside = succeeded(here(*ASK, f"model.path={base}", f"adapter.path={adapter}"))
    merge = [f"weights.source={base}", "weights.target=runs/merged", f"weights.merge_adapter={adapter}"]
    converted = succeeded(here("task=convert", *merge))
    assert "merging  " in converted.out
    merged = succeeded(here(*ASK, "model.path=runs/merged"))
    assert merged.out == beside.out
    assert beside.out != succeeded(here(*ASK, f"model.path={base}")).out

    weights, factors = (
        load_file(workspace.directory / file)
        for file in ("runs/merged/model.safetensors", f"{adapter}/adapter_model.safetensors")
    )
    before = load_file(workspace.directory / base / "model.safetensors")
    name = "model.layers.1.mlp.up_proj"
    a, b = (factors[f"base_model.model.{name}.lora_{which}.weight"].astype(np.float64) for which in "AB")
    np.testing.assert_allclose(weights[f"{name}.weight"], before[f"{name}.weight"] + 8 * b @ a, atol=1e-6)
    assert np.array_equal(weights["model.norm.weight"], before["model.norm.weight"])


def test_training_starts_from_an_adapter(
    workspace: Workspace, refused: Callable[..., str], base: str, adapter: str
) -> None:
    go_on = [*RUN, "train.max_steps=1", f"model.path={base}", f"adapter.path={adapter}"]
    succeeded(workspace(*go_on, *named("lora-more")))
    first, last = workspace.run("lora-more").values("eval/loss")[0], workspace.run("adapter").values("eval/loss")[-1]
    assert first == pytest.approx(last, abs=1e-6)
    other = refused(*go_on, "adapter.r=8", *named("lora-other"))
    assert "adapter.r: 8, but " in other
    assert "-> adapter.r=4 adapter.alpha=32 adapter.target_modules=[q_proj," in other


def test_refusals(workspace: Workspace, refused: Callable[..., str], base: str, adapter: str, tmp_path: Path) -> None:
    other = refused(*ASK, "model=tiny", f"adapter.path={adapter}")
    assert "adapter.path: " in other
    assert "was trained on a base model other than random weights of seed 0" in other
    alone = refused(*ASK, f"model.path={adapter}")
    assert "holds a LoRA adapter, not a model" in alone
    assert f"model.path=BASE, the model that it was trained on, and adapter.path={adapter}" in alone
    copy = tmp_path / "adapter"
    shutil.copytree((workspace.directory / adapter).resolve(), copy)
    file = copy / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    damaged = refused(*ASK, f"model.path={base}", f"adapter.path={copy}")
    assert "has changed since it was written (SHA-256 differs: " in damaged
    nothing = refused(*RECIPE, "parallel=single", "adapter.r=8")
    assert "adapter.r: is given, but adapter=none trains the weights themselves" in nothing
