import json
from pathlib import Path

import numpy as np
import pytest

from dscoder_exp.device.start import start_device
from dscoder_exp.model.rotary import Rotary, rotary_tables
from dscoder_exp.schema.llama import LlamaConfig, RopeScaling
from dscoder_exp.weights.formats.hf_config import from_hf
from dscoder_exp.weights.rotary_frequencies import rotary_frequencies

ROPE = Path(__file__).parents[1] / "reference" / "rope"  # made by make_rope.py


def config(scaling=None):
    return LlamaConfig(32, 16, 32, 1, 2, 1, 8, 64, 1e-6, 10000.0, scaling, False, 0, 1, 2)


def test_angles_by_hand():
    """Pair i of position p is rotated by p * theta^(-2i/d)."""
    cos, sin = rotary_tables(config(), np.array([0, 3]))
    assert cos.shape == (2, 8)
    angles = 3 * np.array([1.0, 10.0**-1, 10.0**-2, 10.0**-3])
    np.testing.assert_allclose(cos[1], np.cos(np.tile(angles, 2)), rtol=1e-6)
    np.testing.assert_allclose(sin[1], np.sin(np.tile(angles, 2)), rtol=1e-6)
    assert (cos[0] == 1).all()


def test_linear_scaling_divides_positions():
    stretched = rotary_tables(config(RopeScaling("linear", 4.0)), np.array([8]))
    plain = rotary_tables(config(), np.array([2]))
    assert all((a == b).all() for a, b in zip(stretched, plain, strict=True))


CONFIGS = json.loads((ROPE / "configs.json").read_text())


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_scaled_frequencies_are_those_of_transformers(name):
    """It computes in fp32: an angle is off by a few units of its last place, so more at far positions."""
    given = {"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    found = from_hf({**given, "num_attention_heads": 2, **CONFIGS[name]}, name)
    reference = dict(np.load(ROPE / "frequencies.npz"))
    frequencies, factor = rotary_frequencies(found)
    np.testing.assert_allclose(frequencies, reference[f"{name}/inv_freq"], rtol=1e-6)
    assert factor == pytest.approx(float(reference[f"{name}/attention_factor"]), rel=1e-12)
    positions = reference["positions"]
    tolerance = factor * (2.0**-21 * positions[:, None] + 1e-6)
    for table, part in zip(rotary_tables(found, positions), ("cos", "sin"), strict=True):
        assert (abs(table - reference[f"{name}/{part}"]) <= tolerance).all(), part


def test_a_stretched_position_keeps_what_was_near():
    """llama3 leaves fast pairs as they are, and divides slow ones by its factor."""
    scaled = config(RopeScaling("llama3", 8.0, 64, 1.0, 4.0))
    ratio = rotary_frequencies(config())[0] / rotary_frequencies(scaled)[0]
    assert ratio[0] == 1
    assert ratio[-1] == pytest.approx(8)
    assert (np.diff(ratio) >= 0).all()


@pytest.mark.parametrize("far", [1_000, 100_000])
def test_far_positions_keep_their_precision(far):
    cos, _ = rotary_tables(config(), np.array([far], np.int32))
    assert cos[0, 0] == pytest.approx(np.cos(np.float64(far)), abs=1e-6)


def test_tables_grow_when_more_positions_are_requested():
    start_device("cpu")
    rotary = Rotary(config())
    known = rotary.tables(5)
    assert rotary.tables(64)[0] is known[0]
    assert known[0].shape == (64, 8)
    cos, sin = (table.asnumpy() for table in rotary.tables(100))
    np.testing.assert_array_equal(cos, rotary_tables(config(), np.arange(128))[0])
    np.testing.assert_array_equal(sin[:64], known[1].asnumpy())
