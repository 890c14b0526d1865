"""The numeric checks of ascend_first_run.py: _first_run_numbers.py CHECK DEVICE FOLDER

CHECK is `matmul` or `parity`, DEVICE `ascend` (bf16) or `cpu` (fp32), FOLDER a model of tests/reference with logits.
The last line printed is the result; the exit code is 1 if the error exceeds its bound.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PRECISIONS = {"ascend": "bf16", "cpu": "fp32"}
# Largest relative error: RMS of the difference / RMS of the expected values. Rounding to bf16 has an RMS error of at
# most 2^-8 / sqrt(12), and a product rounds its factors and its result: 0.2%. Logits of tiny_gqa in numpy, with each
# result rounded to bf16, have an error of 1.1% (2026-11-28).
BOUNDS = {("matmul", "bf16"): 4e-3, ("parity", "bf16"): 3e-2, ("matmul", "fp32"): 1e-5, ("parity", "fp32"): 1e-5}


def matmul(device: str, folder: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A matrix product on the device, and by numpy in fp64: (512, 4096) x (4096, 11008)."""
    import mindspore as ms
    from mindspore import ops

    from dscoder_exp.device.start import start_device

    start_device(device)
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ((512, 4096), (11008, 4096)))
    dtype = {"bf16": ms.bfloat16, "fp32": ms.float32}[PRECISIONS[device]]
    product = ops.MatMul(transpose_b=True)(ms.Tensor(x).astype(dtype), ms.Tensor(weight).astype(dtype))
    return product.astype(ms.float32).asnumpy(), (x.astype(np.float64) @ weight.T).astype(np.float32)


def parity(device: str, folder: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A small model's logits on the device, and PyTorch's in fp32."""
    from dscoder_exp import load

    with np.load(folder / "reference.npz") as reference:
        ids, expected = reference["input_ids"], reference["logits"]
    return load(str(folder), precision=PRECISIONS[device], device=device).logits(ids), expected


def main() -> int:
    check, device, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    found, expected = {"matmul": matmul, "parity": parity}[check](device, folder)
    error = float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))
    bound, precision = BOUNDS[check, PRECISIONS[device]], PRECISIONS[device]
    worst = np.abs(found - expected).max()
    print(f"{precision}: relative error {error:.2e} (root mean square; bound {bound}), largest difference {worst:.3g}")
    return 0 if error <= bound else 1  # NaN fails, too


if __name__ == "__main__":
    sys.exit(main())
