"""LoRA against PyTorch and PEFT: twenty optimizer steps from PEFT's own first adapter, and the logits at their end."""

import json
from pathlib import Path

import numpy as np
import pytest
from parity_support import arrays, reference_folders
from test_parity_training import optim_of, whole_batch

FOLDERS = [
    parameter
    for parameter in reference_folders("curve.npz", "hparams_and_curve.json")
    if json.loads((parameter.values[0] / "hparams_and_curve.json").read_text()).get("kind") == "lora"
]
TOLERANCE = 2e-4


def base_of(folder: Path) -> Path:
    hyper = json.loads((folder / "hparams_and_curve.json").read_text())
    return folder.parent / Path(hyper["init_checkpoint"]).name


def adapted(folder: Path):
    """The base with the initial adapter beside it, and the adapter as it was read."""
    from dscoder_exp.device.start import start_device
    from dscoder_exp.model.build import build
    from dscoder_exp.weights.lora.adapter import Factors, read_adapter
    from dscoder_exp.weights.source import open_weights

    hyper = json.loads((folder / "hparams_and_curve.json").read_text())
    adapter = read_adapter(str(folder / hyper["init_adapter"]), "adapter.path")
    source = open_weights(str(base_of(folder)))
    start_device("cpu")
    factors = Factors(adapter.lora, adapter.factors)
    return build(source.config, source, seed=0, device="cpu", precision="fp32", factors=factors), adapter, hyper


def logits_of(model, ids: np.ndarray) -> np.ndarray:
    positions = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
    return model.logits(model.inputs(ids, positions, np.zeros_like(ids))).reshape(*ids.shape, -1)


@pytest.mark.parametrize("folder", FOLDERS)
def test_curve(folder, tmp_path):
    from dscoder_exp import load
    from dscoder_exp.training.step import Step
    from dscoder_exp.weights.generation_config import GenerationConfig
    from dscoder_exp.weights.lora.adapter import read_adapter
    from dscoder_exp.weights.lora.writer import write_adapter

    curve = arrays(folder, "curve.npz")
    model, adapter, hyper = adapted(folder)
    step = Step(model, optim_of(hyper | {"no_decay_on_1d": True}), recompute="none")
    frozen = [weight.asnumpy().copy() for group in model.groups for weight in group]
    for number in range(hyper["steps"]):
        batches = [whole_batch(ids.astype(np.int32)) for ids in curve["batches"][number]]
        result = step(batches, float(curve["lr"][number]))
        assert result.loss == pytest.approx(curve["loss"][number], abs=TOLERANCE), f"step {number + 1}"
        assert result.grad_norm == pytest.approx(curve["grad_norm_before_clip"][number], rel=1e-3)
    expected = read_adapter(str(folder / "adapter_after_step20"), "adapter.path").factors
    assert {name for name, _ in model.masters.state()} == expected.keys()
    for name, factor in model.masters.state():
        np.testing.assert_allclose(factor, expected[name], atol=TOLERANCE, err_msg=name)
    for before, weight in zip(frozen, [weight for group in model.groups for weight in group], strict=True):
        assert np.array_equal(weight.asnumpy(), before)

    ids = curve["final_input_ids"].astype(np.int32)
    np.testing.assert_allclose(logits_of(model, ids), curve["final_logits"], atol=TOLERANCE)
    saved = tmp_path / "adapter"
    base = "tiny", model.base_sha256
    saved.mkdir()
    beside = {"base": base, "template": None, "generation": GenerationConfig(), "lineage": {}}
    write_adapter(saved, model.config, adapter.lora, model.masters.state(), **beside)
    merged = load(str(base_of(folder)), adapter=str(saved))
    np.testing.assert_allclose(merged.logits(ids), curve["merged_logits"], atol=TOLERANCE)


@pytest.mark.parametrize("folder", FOLDERS)
def test_merging_pefts_own_adapter(folder):
    from dscoder_exp import load

    curve = arrays(folder, "curve.npz")
    merged = load(str(base_of(folder)), adapter=str(folder / "adapter_after_step20"))
    logits = merged.logits(curve["final_input_ids"])
    np.testing.assert_allclose(logits, curve["merged_logits"], atol=TOLERANCE)


@pytest.mark.parametrize("folder", FOLDERS)
def test_before_its_first_step_it_is_the_base_bit_for_bit(folder):
    from dscoder_exp import load
    from dscoder_exp.weights.lora.adapter import read_adapter

    ids = arrays(folder, "curve.npz")["final_input_ids"].astype(np.int32)
    model, adapter, _ = adapted(folder)
    assert all((array == 0).all() == ("lora_B" in name) for name, array in adapter.factors.items())
    base = load(str(base_of(folder)))
    assert np.array_equal(logits_of(model, ids), base.logits(ids))
    assert read_adapter(str(folder / "adapter_init"), "adapter.path").lora.scale == 2
