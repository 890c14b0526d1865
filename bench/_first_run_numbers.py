"""What ascend_first_run.py computes on the device beside the command line: WHAT DEVICE FOLDER

WHAT is `matmul` or `parity`, DEVICE `ascend` (in bf16) or `cpu` (in fp32), FOLDER one of tests/reference with logits.
The last line printed is the verdict; the exit code is 1 where a bound is broken.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PRECISIONS = {"ascend": "bf16", "cpu": "fp32"}
# Root mean square of the difference, over that of what is expected. Rounding to bf16 is off by 2^-8 / sqrt(12) at most,
# and a product rounds its factors and itself: 0.2%. Logits of tiny_gqa in numpy, each result rounded to bf16, are 1.1%
# off the reference (2026-11-28).
BOUNDS = {("matmul", "bf16"): 4e-3, ("parity", "bf16"): 3e-2, ("matmul", "fp32"): 1e-5, ("parity", "fp32"): 1e-5}


def matmul(device: str, folder: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A product as MindSpore's device computes it, and as numpy does in fp64."""
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
    """A small model's logits here, and PyTorch's in fp32."""
    from dscoder_exp import load

    with np.load(folder / "reference.npz") as reference:
        ids, expected = reference["input_ids"], reference["logits"]
    return load(str(folder), precision=PRECISIONS[device], device=device).logits(ids), expected


def main() -> int:
    what, device, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    found, expected = {"matmul": matmul, "parity": parity}[what](device, folder)
    off = float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))
    bound, precision = BOUNDS[what, PRECISIONS[device]], PRECISIONS[device]
    worst = np.abs(found - expected).max()
    print(f"{precision} is {off:.2e} off (relative, root mean square; bound {bound}), at most {worst:.3g}")
    return 0 if off <= bound else 1  # 1 of NaN, too


if __name__ == "__main__":
    sys.exit(main())
