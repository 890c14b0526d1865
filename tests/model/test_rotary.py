import numpy as np
import pytest

from dscoder_exp.device.start import start_device
from dscoder_exp.model.rotary import Rotary, rotary_tables
from dscoder_exp.schema.llama import LlamaConfig, RopeScaling


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
