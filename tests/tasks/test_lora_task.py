"""adapter=lora by the command line: trained, stopped and taken up again, used by predict, merged by convert."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from processes import Ended
from safetensors.numpy import load_file
from tasks_support import RECIPE, Room, done

pytestmark = pytest.mark.slow

STEPS = 6
LORA = ["adapter=lora", "adapter.r=4", "adapter.dropout=0.1", "parallel=single", "optim.lr=1e-2"]
RUN = [*RECIPE, *LORA, f"train.max_steps={STEPS}", "train.save_every=2", "train.eval_every=3"]
ASK = ["predict.prompt=Write a function.", "predict.max_new_tokens=16", "tracking=off"]


def own(name: str) -> list[str]:
    return [f"name={name}", f"output_dir=runs/{name}"]


@pytest.fixture(scope="session")
def base(room: Room, whole: Ended) -> str:
    """A model that was trained in full before."""
    return "runs/whole/checkpoints/last"


@pytest.fixture(scope="session")
def adapter(room: Room, base: str) -> str:
    ended = done(room(*RUN, f"model.path={base}", *own("adapter")))
    assert "LoRA of rank 4, alpha 32, on q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj: " in ended.out
    assert f"task=predict model.path={room.directory / base} adapter.path=" in ended.out
    return "runs/adapter/checkpoints/last"


def test_what_is_saved_is_an_adapter_of_pefts(room: Room, base: str, adapter: str) -> None:
    saved = room.directory / adapter
    assert sorted(file.name for file in saved.iterdir()) == [
        "adapter.json",
        "adapter_config.json",
        "adapter_model.safetensors",
        "optimizer.safetensors",
        "training.json",
    ]
    config = json.loads((saved / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["lora_dropout"]) == ("LORA", 4, 32, 0.1)
    assert config["base_model_name_or_path"] == str(room.directory / base)
    factors = load_file(saved / "adapter_model.safetensors")
    assert len(factors) == 2 * 7 * 2
    assert factors["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"].shape == (4, 176)
    assert factors["base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight"].shape == (32, 4)
    moments = load_file(saved / "optimizer.safetensors")
    assert len(moments) == 2 * len(factors)  # the base isn't in the optimizer
    losses = room.run("adapter").values("eval/loss")
    assert losses[-1] < losses[0] - 0.01


def test_tensor_ranks_save_the_same_adapter_whole(
    room: Room, base: str, adapter: str, assert_learnt_alike: Callable[..., None]
) -> None:
    done(room(*RUN, f"model.path={base}", "parallel=tp2", "tracking=off", "output_dir=runs/adapter-shared"))
    file = "checkpoints/last/adapter_model.safetensors"
    found, reference = (load_file(room.directory / f"runs/{name}/{file}") for name in ("adapter-shared", "adapter"))
    assert found.keys() == reference.keys()
    for name, factor in reference.items():
        assert_learnt_alike(found[name], factor, rate=1e-2, steps=STEPS, rows=256, name=name)


def test_stopped_and_taken_up_again_it_is_the_same_bit_by_bit(room: Room, base: str, adapter: str) -> None:
    command = [*RUN, f"model.path={base}", *own("lora-stopped"), "train.resume=auto"]
    started = room.start(*command)
    started.wait_for(room.directory / "runs" / "lora-stopped" / "checkpoints" / "last")
    started.process.send_signal(signal.SIGTERM)
    assert started.wait().code == 143

    refused = room(*command, f"model.path={base}/../../../halves")  # nothing lies there
    assert refused.code == 2
    refused = room(*command, "adapter.dropout=0.0")
    assert refused.code == 2
    assert "adapter.dropout: 0.0, but " in refused.err
    other = room("task=train", *RUN, "model=tiny", *own("lora-stopped"), "train.resume=auto")
    assert other.code == 2
    assert "was trained on a base model other than" in other.err

    done(room(*command))
    found, expected = room.run("lora-stopped"), room.run("adapter")
    for metric in ("train/loss", "train/grad_norm", "eval/loss"):
        assert found.metrics[metric] == expected.metrics[metric]
    for file in ("adapter_model.safetensors", "optimizer.safetensors"):
        ours, theirs = (
            room.directory / "runs" / run / "checkpoints" / "last" / file for run in ("lora-stopped", "adapter")
        )
        assert ours.read_bytes() == theirs.read_bytes(), file


def test_predict_takes_it_and_convert_merges_it(room: Room, base: str, adapter: str) -> None:
    beside = done(room("task=predict", f"model.path={base}", f"adapter.path={adapter}", *ASK))
    converted = done(
        room("task=convert", f"weights.source={base}", "weights.target=runs/merged", f"weights.merge_adapter={adapter}")
    )
    assert "merging  " in converted.out
    merged = done(room("task=predict", "model.path=runs/merged", *ASK))
    assert merged.out == beside.out
    assert beside.out != done(room("task=predict", f"model.path={base}", *ASK)).out

    weights, factors = (
        load_file(room.directory / file)
        for file in ("runs/merged/model.safetensors", f"{adapter}/adapter_model.safetensors")
    )
    before = load_file(room.directory / base / "model.safetensors")
    name = "model.layers.1.mlp.up_proj"
    a, b = (factors[f"base_model.model.{name}.lora_{which}.weight"].astype(np.float64) for which in "AB")
    np.testing.assert_allclose(weights[f"{name}.weight"], before[f"{name}.weight"] + 8 * b @ a, atol=1e-6)
    assert np.array_equal(weights["model.norm.weight"], before["model.norm.weight"])


def test_training_goes_on_from_an_adapter(room: Room, base: str, adapter: str) -> None:
    go_on = [*RUN, "train.max_steps=1", f"model.path={base}", f"adapter.path={adapter}"]
    done(room(*go_on, *own("lora-more")))
    first, last = room.run("lora-more").values("eval/loss")[0], room.run("adapter").values("eval/loss")[-1]
    assert first == pytest.approx(last, abs=1e-6)
    refused = room(*go_on, "adapter.r=8", *own("lora-other"))
    assert refused.code == 2
    assert "adapter.r: 8, but " in refused.err
    assert "-> adapter.r=4 adapter.alpha=32 adapter.target_modules=[q_proj," in refused.err


def test_refusals(room: Room, base: str, adapter: str, tmp_path: Path) -> None:
    ask = ["task=predict", *ASK]
    other = room(*ask, "model=tiny", f"adapter.path={adapter}")
    assert other.code == 2
    assert "adapter.path: " in other.err
    assert "was trained on a base model other than random weights of seed 0" in other.err
    alone = room(*ask, f"model.path={adapter}")
    assert "holds a LoRA adapter, not a model" in alone.err
    assert f"model.path=BASE, the model that it was trained on, and adapter.path={adapter}" in alone.err
    copy = tmp_path / "adapter"
    shutil.copytree((room.directory / adapter).resolve(), copy)
    file = copy / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    damaged = room(*ask, f"model.path={base}", f"adapter.path={copy}")
    assert damaged.code == 2
    assert "has changed since it was written (SHA-256 differs: " in damaged.err
    nothing = room(*RECIPE, "parallel=single", "adapter.r=8")
    assert nothing.code == 2
    assert "adapter.r: is given, but adapter=none trains the weights themselves" in nothing.err
