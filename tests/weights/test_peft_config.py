"""adapter_config.json: which adapters are W + scale * B A, with whose factors, and which are refused by field."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_adapter import PEFT_ADAPTER, change, refusal
from weights_support import REFERENCE

from dscoder_exp.schema.config import MODULES
from dscoder_exp.schema.errors import Refused
from dscoder_exp.weights.lora import setup
from dscoder_exp.weights.lora.adapter import PREFIX, read_adapter, refuse_unfitting
from dscoder_exp.weights.lora.peft_config import PeftConfig
from dscoder_exp.weights.names import parameter_shapes
from dscoder_exp.weights.source import open_weights

Q0 = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PEFT_ADAPTER, tmp_path / "adapter"))


def read(directory: Path):
    adapter = read_adapter(str(directory), "adapter.path")
    refuse_unfitting(adapter, open_weights(str(REFERENCE / "tiny_gqa")).config, "adapter.path")
    return adapter


def factors_of(directory: Path) -> dict[str, np.ndarray]:
    return load_file(directory / "adapter_model.safetensors")


def save(directory: Path, factors: dict[str, np.ndarray]) -> None:
    whole = {name: np.ascontiguousarray(array) for name, array in factors.items()}
    save_file(whole, directory / "adapter_model.safetensors")


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "Gaussian", "eva", "orthogonal", "mica"])
def test_starts_that_leave_the_base_as_it_was_are_merged(copy: Path, start: Any) -> None:
    change(copy, init_lora_weights=start)
    read(copy)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16", "PiSSA", "olora", "corda", "lora_ga"])
def test_starts_that_changed_the_base_are_refused(copy: Path, start: str) -> None:
    change(copy, init_lora_weights=start)
    message = refusal(copy)
    assert f'adapter_config.json: init_lora_weights is "{start}", so its factors belong to base weights that' in message
    assert "path_initial_model_for_weight_conversion" in message


@pytest.mark.parametrize(
    ("start", "why"), [("loftq", "PEFT quantised before"), ("quokka", "not known"), (3, "not known"), ([], "not known")]
)
def test_starts_without_a_conversion_are_refused(copy: Path, start: Any, why: str) -> None:
    change(copy, init_lora_weights=start)
    message = refusal(copy)
    assert f"init_lora_weights is {json.dumps(start)}, " in message
    assert why in message
    assert "merge_and_unload" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("peft_type", "ADALORA"),
        ("bias", "lora_only"),
        ("lora_bias", True),
        ("use_dora", True),
        ("use_qalora", True),
        ("use_bdlora", {"target_modules_bd_a": []}),
        ("fan_in_fan_out", True),
        ("modules_to_save", ["lm_head"]),
        ("trainable_token_indices", [5]),
        ("target_parameters", ["mlp.experts"]),
        ("layer_replication", [[0, 2], [1, 2]]),
        ("alora_invocation_tokens", [7, 8]),
        ("arrow_config", {"top_k": 3}),
        ("kasa_config", {"beta": 1e-4}),
        ("monteclora_config", {"num_samples": 8}),
        ("velora_config", {"num_groups": 4}),
        ("not_invented_yet", "on"),
        ("not_invented_yet", 1),
    ],
)
def test_fields_that_compute_something_else_are_refused_by_name(copy: Path, name: str, value: Any) -> None:
    change(copy, **{name: value})
    assert f"adapter_config.json: {name} is {json.dumps(value)}, which is not supported" in refusal(copy)


def test_an_adapter_that_no_merge_can_follow_says_so(copy: Path) -> None:
    change(copy, alora_invocation_tokens=[7], use_dora=True)
    message = refusal(copy)
    assert "refused, 2 problems" in message
    assert "[7], which is not supported\n      -> it acts only after these tokens" in message


@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_an_unknown_field_that_is_off_is_accepted(copy: Path, value: Any) -> None:
    change(copy, not_invented_yet=value, alora_invocation_tokens=value, use_dora=value)
    read(copy)


def test_fields_about_training_are_accepted(copy: Path) -> None:
    """Starts' settings are left behind when an adapter is converted; an absent field has PEFT's default."""
    change(
        copy,
        auto_mapping={"base_model_class": "LlamaForCausalLM", "parent_library": "transformers"},
        revision="main",
        corda_config={"corda_method": "kpm"},
        eva_config={"rho": 2.0},
        loftq_config={"loftq_bits": 4},
        lora_ga_config={"scale": "stable"},
        runtime_config={"ephemeral_gpu_offload": False},
        ensure_weight_tying=True,
    )
    read(copy)
    file = copy / "adapter_config.json"
    values = json.loads(file.read_text())
    needed = ("peft_type", "r", "lora_alpha", "target_modules")
    file.write_text(json.dumps({name: values[name] for name in needed}))
    read(copy)


@pytest.mark.parametrize("rslora", [False, True])
def test_ranks_and_alphas_of_single_modules(copy: Path, rslora: bool) -> None:
    """By a module's name or its end, as PEFT matches them; the first pattern counts."""
    ranks = {"layers.0.self_attn.q_proj": 3, "q_proj": 5, "^model.layers.[1-9].mlp.(up|down)_proj": 2}
    alphas = {"up_proj": 40, "model.layers.0.self_attn.q_proj": 6}
    change(copy, rank_pattern=ranks, alpha_pattern=alphas, use_rslora=rslora)
    expected = {
        Q0: (3, 6),
        "model.layers.1.self_attn.q_proj": (5, 16),
        "model.layers.0.mlp.up_proj": (8, 40),
        "model.layers.1.mlp.up_proj": (2, 40),
        "model.layers.1.mlp.down_proj": (2, 16),
        "model.layers.1.mlp.gate_proj": (8, 16),
    }
    factors = factors_of(copy)
    for name, array in factors.items():
        rank = expected.get(name.removeprefix(PREFIX).partition(".lora_")[0], (8, 16))[0]
        factors[name] = array[:rank] if ".lora_A." in name else array[:, :rank]
    save(copy, factors)
    adapter = read(copy)
    weights = open_weights(str(REFERENCE / "tiny_gqa"))
    for module, (rank, alpha) in expected.items():
        weight = weights.tensor(f"{module}.weight")
        a, b = (factors[f"{PREFIX}{module}.lora_{which}.weight"].astype(np.float64) for which in "AB")
        assert len(a) == rank
        wanted = weight + alpha / (np.sqrt(rank) if rslora else rank) * (b @ a)
        found = adapter.merge_rows(f"{module}.weight", weight, 0, "F32")
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert not np.allclose(found, weight, atol=1e-6)


def test_a_rank_that_no_pattern_gives_is_refused(copy: Path) -> None:
    change(copy, rank_pattern={"q_proj": 2})
    expected = f"4 of another shape ({Q0}.lora_A.weight [8, 64] instead of [2, 64], "
    assert expected in refusal(copy)


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({"layers_to_transform": [1]}, r"layers.1\."),
        ({"layers_to_transform": 0}, r"layers.0\."),
        ({"layers_to_transform": [1], "layers_pattern": "layers"}, r"layers.1\."),
        ({"layers_to_transform": [1], "layers_pattern": ["h", "layers"]}, r"layers.1\."),
        ({"target_modules": ["layers.0.mlp.up_proj", "v_proj"]}, r"(layers.0.mlp.up|v)_proj"),
        ({"target_modules": r".*\.1\..*(q|down)_proj"}, r"layers.1.*(q|down)_proj"),
        ({"exclude_modules": ["layers.0.mlp.up_proj", "q_proj"]}, r"(layers.1.mlp.up|[kvoe]|down)_proj"),
        ({"exclude_modules": r".*layers\.0.*"}, r"layers.1\."),
        ({"target_modules": "all-linear"}, ""),
        ({"target_modules": None}, ""),
    ],
)
def test_only_some_modules_have_factors(copy: Path, values: dict[str, Any], kept: str) -> None:
    """What the file lacks by these fields isn't missing, and what it has beside them is unexpected."""
    change(copy, **values)
    whole = factors_of(copy)
    some = {name: array for name, array in whole.items() if re.search(kept, name)}
    save(copy, some)
    adapter = read(copy)
    for name in parameter_shapes(open_weights(str(REFERENCE / "tiny_gqa")).config):
        rows = np.zeros((1, 1), np.float32)
        has = f"{PREFIX}{name.removesuffix('.weight')}.lora_A.weight" in some
        assert has or adapter.merge_rows(name, rows, 0, "F32") is rows
    if len(some) < len(whole):
        save(copy, whole)
        assert f"{len(whole) - len(some)} unexpected (" in refusal(copy)
    gone = next(iter(some))
    save(copy, {name: array for name, array in some.items() if name != gone})
    assert f"1 missing ({gone.removeprefix(PREFIX)})" in refusal(copy)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"rank_pattern": ["q_proj"]}, "rank_pattern is ['q_proj'], not an object"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern is 0, not a whole number from 1 on"),
        ({"rank_pattern": {"(": 2}}, "missing ), unterminated subpattern at position 0"),
        ({"alpha_pattern": {"q_proj": "16"}}, "alpha_pattern is '16', not a number"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform is ['0'], not a list of numbers"),
        ({"target_modules": [3]}, "target_modules is [3], not a list of names"),
        ({"target_modules": 3}, "target_modules is 3, not names"),
        ({"target_modules": "("}, "missing ), unterminated subpattern at position 0"),
        ({"exclude_modules": {"q_proj": 1}}, "exclude_modules is {'q_proj': 1}, not a list of names"),
        ({"lora_dropout": None}, "lora_dropout is None, not a number"),
        ({"r": True}, "r is True, not a whole number from 1 on"),
    ],
)
def test_invalid_fields_are_named(copy: Path, values: dict[str, Any], what: str) -> None:
    change(copy, **values)
    assert f"{copy}/adapter_config.json: {what}" in refusal(copy)


def test_training_does_not_go_on_from_uneven_factors(copy: Path) -> None:
    config = open_weights(str(REFERENCE / "tiny_gqa")).config
    setup._refuse_uneven(read(PEFT_ADAPTER), config)
    change(copy, alpha_pattern={"q_proj": 16})
    setup._refuse_uneven(read(copy), config)
    change(copy, alpha_pattern={"q_proj": 4})
    with pytest.raises(Refused, match="its alpha_pattern gives modules different factors"):
        setup._refuse_uneven(read(copy), config)
    change(copy, alpha_pattern={}, layers_to_transform=[0])
    save(copy, {name: array for name, array in factors_of(copy).items() if "layers.0." in name})
    with pytest.raises(Refused, match="its layers_to_transform gives modules different factors"):
        setup._refuse_uneven(read(copy), config)


def test_a_long_value_is_shortened(copy: Path) -> None:
    change(copy, modules_to_save=[f"module_{number}" for number in range(99)])
    assert "…, which is not supported" in refusal(copy)
    assert len(refusal(copy)) < 600


def test_all_modules_are_targets_by_name() -> None:
    config = PeftConfig(8, 16.0, 0.0, False, list(MODULES), [], None, [], {}, {})
    assert config.targets(Q0)
    assert not config.targets("lm_head")
    assert not config.targets("model.layers.0.self_attn.xq_proj")
