"""Adapters in PEFT's format: reading, refusals and merging."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from weights_support import EMPTY_MODEL, NO_PATH, weights_config

from dscoder_exp.schema.errors import Refused
from dscoder_exp.schema.llama import Lora
from dscoder_exp.weights.chat_template import ModelTemplate
from dscoder_exp.weights.convert.conversion import convert, open_conversion
from dscoder_exp.weights.formats.tensor_io import from_float32, to_float32
from dscoder_exp.weights.generation_config import GenerationConfig
from dscoder_exp.weights.lora.adapter import BASE_PROBE, read_adapter, refuse_unfitting, sha256_of
from dscoder_exp.weights.lora.writer import write_adapter
from dscoder_exp.weights.random_init import random_factors
from dscoder_exp.weights.source import open_weights

REFERENCE = Path(__file__).parents[1] / "reference"
PEFT_ADAPTER = REFERENCE / "lora_r8_all" / "adapter_after_step20"
NO_LINEAGE: dict[str, Any] = {"generation": GenerationConfig((2, 9)), "lineage": {}}
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(PEFT_ADAPTER, tmp_path / "adapter")
    return tmp_path / "adapter"


def change(directory: Path, **values: object) -> None:
    file = directory / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refusal(directory: Path) -> str:
    with pytest.raises(Refused) as caught:
        refuse_unfitting(
            read_adapter(str(directory), "adapter.path"),
            open_weights(str(REFERENCE / "tiny_gqa")).config,
            "adapter.path",
        )
    return str(caught.value)


def test_an_adapter_written_by_peft_is_read() -> None:
    adapter = read_adapter(str(PEFT_ADAPTER), "adapter.path")
    assert (adapter.lora.r, adapter.lora.alpha, adapter.lora.scale) == (8, 16, 2)
    assert adapter.lora.target_modules == ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert (adapter.base, adapter.template) == (None, None)
    refuse_unfitting(adapter, open_weights(str(REFERENCE / "tiny_gqa")).config, "adapter.path")


def test_rank_stabilised_scale(copy: Path) -> None:
    change(copy, use_rslora=True)
    assert read_adapter(str(copy), "adapter.path").lora.scale == pytest.approx(16 / np.sqrt(8))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_merging_in_chunks_equals_merging_all_rows(dtype: str) -> None:
    adapter = read_adapter(str(PEFT_ADAPTER), "adapter.path")
    weight = open_weights(str(REFERENCE / "tiny_gqa")).tensor(UP)
    stored = from_float32(weight, dtype)
    parts = [adapter.merge_rows(UP, stored[first : first + 50], first, dtype) for first in range(0, len(stored), 50)]
    a, b = (adapter.factors[UP.replace(".weight", f".lora_{which}.weight")].astype(np.float64) for which in "AB")
    expected = to_float32(stored, dtype).astype(np.float64) + 2 * b @ a
    merged = np.concatenate(parts)
    assert merged.dtype == stored.dtype
    spacing = {"F32": 2**-22, "F16": 2**-11, "BF16": 2**-8}[dtype]  # half a unit in the last place, of values below 1
    np.testing.assert_allclose(to_float32(merged, dtype), expected, atol=spacing)
    norm = open_weights(str(REFERENCE / "tiny_gqa")).tensor("model.norm.weight")
    assert adapter.merge_rows("model.norm.weight", norm, 0, "F32") is norm


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -(1 + 2**-8)], np.float32)
    rounded = to_float32(from_float32(values, "BF16"), "BF16")
    assert rounded.tolist() == [1.0, 1.0, 1 + 2**-6, 1 + 2**-7, -1.0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"use_dora": True}, "use_dora is true, which is not supported"),
        ({"peft_type": "IA3"}, 'peft_type is "IA3", which is not supported'),
        ({"modules_to_save": ["lm_head"]}, 'modules_to_save is ["lm_head"], which is not supported'),
        ({"r": "8"}, "r is '8', not a whole number from 1 on"),
        ({"r": 0}, "r is 0, not a whole number from 1 on"),
        ({"lora_alpha": None}, "lora_alpha is None, not a number"),
        ({"r": 4}, "28 of another shape (model.layers.0.self_attn.q_proj.lora_A.weight [8, 64] instead of [4, 64], "),
    ],
)
def test_unsupported_adapters_are_refused(copy: Path, values: dict[str, object], expected: str) -> None:
    change(copy, **values)
    assert expected in refusal(copy)


def test_factors_that_do_not_fit_are_named(copy: Path) -> None:
    file = copy / "adapter_model.safetensors"
    factors = load_file(file)
    gone = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    added = {"base_model.model.lm_head.lora_A.weight": np.zeros((8, 64), np.float32)}
    save_file({name: array for name, array in factors.items() if name != gone} | added, file)
    message = refusal(copy)
    assert f"{copy} doesn't fit the model: 1 missing (model.layers.1.self_attn.q_proj.lora_B.weight); " in message
    assert "1 unexpected (lm_head.lora_A.weight)" in message
    save_file({name: array.astype(np.int32) for name, array in factors.items()}, file)
    assert "is I32 [8, 176], not a LoRA factor" in refusal(copy)
    file.write_bytes(b"x")
    assert "not a readable safetensors file" in refusal(copy)
    file.unlink()
    assert "holds no adapter: adapter_config.json and adapter_model.safetensors" in refusal(copy)


def test_an_older_record_is_refused(copy: Path) -> None:
    (copy / "adapter.json").write_text(json.dumps({"format": "dscoder_exp adapter", "version": 0}))
    assert "version 0; expected 'dscoder_exp adapter' version 1" in refusal(copy)
    (copy / "adapter.json").write_text(json.dumps({"format": "dscoder_exp adapter", "version": 1, "base": 3}))
    assert "damaged: " in refusal(copy)


def test_a_prompt_format_file_is_copied_with_the_adapter_and_when_merging(tmp_path: Path) -> None:
    template = ModelTemplate("mine.jinja", "{{ messages[0]['content'] }}", "data.template")
    source, lora = open_weights(str(REFERENCE / "tiny_gqa")), Lora(2, 4.0, 0.0, ("q_proj",))
    base = "tiny_gqa", sha256_of(source.tensor(BASE_PROBE))
    factors = random_factors(source.config, lora, 0)
    (tmp_path / "adapter").mkdir()
    write_adapter(tmp_path / "adapter", source.config, lora, factors, base=base, template=template, **NO_LINEAGE)
    kept = tmp_path / "adapter" / "chat_template.jinja"
    found = read_adapter(str(tmp_path / "adapter"), "adapter.path").template
    assert found == ModelTemplate("chat_template", template.source, str(kept))
    wanted = weights_config(
        REFERENCE / "tiny_gqa", tmp_path / "merged", format="native", merge_adapter=str(tmp_path / "adapter")
    )
    convert(open_conversion(wanted, EMPTY_MODEL, NO_PATH))
    merged = tmp_path / "merged" / "chat_template.jinja"
    assert open_weights(str(tmp_path / "merged")).template == ModelTemplate(
        "chat_template", template.source, str(merged)
    )
