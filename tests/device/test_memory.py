"""Weights and states are uploaded to the device once, and the inputs of a step once.

MindSpore uploads a tensor made from numpy to an NPU at every call of a compiled function, and what the function writes
to it is lost. On the CPU such a mistake has no effect, so these tests look for it; tests/ascend counts the copies.
"""

import ast
from pathlib import Path

import numpy as np

from dscoder_exp.device.memory import clear, fetch, put, put_all, views_of
from dscoder_exp.device.start import start_device

PACKAGE = Path(__file__).parents[2] / "dscoder_exp"
# Modules that may make tensors from host data, and why these aren't uploaded again at every call
ALLOWED = {
    "device/memory.py": "puts it on the device",
    "generation/ascend_decoder.py": "flash attention reads the lengths on the host",
    "model/kernels/ascend.py": "flash attention and dropout read these on the host; the mask is a graph's constant",
    "model/kernels/native.py": "a graph's constants",
}


def makes_tensors(path: Path) -> bool:
    """Whether a module calls Tensor, Parameter or from_numpy of any object, or mindspore.tensor."""
    called = [ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    if any(name in ("tensor", "ms.tensor", "mindspore.tensor") for name in called):
        return True
    return any(name.rpartition(".")[2] in ("Tensor", "Parameter", "from_numpy") for name in called)


def test_tensors_are_made_from_numpy_in_one_place() -> None:
    found = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if makes_tensors(path)}
    assert found == ALLOWED.keys()


def test_arrays_are_unchanged_after_upload_and_download() -> None:
    start_device("cpu")
    first, second = np.arange(6, dtype=np.int32).reshape(2, 3), np.array([7, 8], np.int32)
    for tensor, array in zip(put_all(first, second), (first, second), strict=True):
        np.testing.assert_array_equal(fetch(tensor), array)
    assert put(np.array(2.5, np.float32)).shape == ()


def test_views_share_memory_with_the_flat_tensor() -> None:
    start_device("cpu")
    flat = put(np.arange(8, dtype=np.float32))
    views = views_of(flat, [(2, 2), (3,)])
    np.testing.assert_array_equal(views[1].asnumpy(), [4, 5, 6])
    clear(flat)
    assert not views[0].asnumpy().any()
