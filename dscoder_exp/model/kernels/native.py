"""Functions of the kernel table in C++ (dscoder_exp/native): for the CPU in fp32, where a compiler was found."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ops
from numpy.typing import NDArray

from dscoder_exp.device.memory import put


def attention_mask(documents: NDArray[np.int32], rank: int = 0, ranks: int = 1) -> tuple[ms.Tensor]:
    """int32 [3, B, T]: for each position the start of its span, its document, and its row in q (-1: on another context
    rank). All three are numbered through the whole batch.

    A span is the smallest contiguous range of positions that attend to none outside it: a document, or several that are
    interleaved. The start is -1 for padding outside all spans.
    """
    numbered = documents + np.arange(len(documents), dtype=np.int32)[:, None] * (documents.max(initial=0) + 1)
    padding = documents.reshape(-1) < 0
    positions = np.arange(documents.size, dtype=np.int32)
    names, inverse = np.unique(np.where(padding, -1, numbered.reshape(-1)), return_inverse=True)
    last = np.zeros(len(names), np.int32)
    last[inverse] = positions  # of a repeated index, the last assignment counts
    reach = np.maximum.accumulate(np.where(padding, positions, last[inverse]))
    begins = np.append(True, reach[:-1] == positions[:-1])
    starts = np.maximum.accumulate(np.where(begins, positions, 0))
    starts[padding & (starts == positions)] = -1
    batch, length = documents.shape
    rows = np.full((batch, ranks, length // ranks), -1, np.int32)
    rows[:, rank] = np.arange(batch * length // ranks, dtype=np.int32).reshape(batch, -1)
    planes = starts, names[inverse].astype(np.int32), rows.reshape(-1)
    return (put(np.stack(planes).reshape(3, batch, length)),)


PRODUCTS = ("linear", "linear_dx", "linear_dweight", "lora_linear", "lora_linear_dx")


def native_functions(library: Path, *, products: bool = True) -> dict[str, Callable[..., Any]]:
    """The functions that the library implements, by their names in the kernel table.

    Args:
        products: include the matrix products, PRODUCTS; the library lacks them for an unknown build of oneDNN.
    """

    def kernel(name: str, outputs: int, shapes: Callable[..., Any]) -> Any:
        """shapes: computes the outputs' shapes from the inputs' shapes."""
        types = (ms.float32,) * outputs if outputs > 1 else ms.float32
        return ops.Custom(f"{library}:{name}", shapes, types, "aot")

    def constant(number):
        return ms.Tensor([number], ms.float32)

    product = kernel("lora_linear", 1, lambda x, a_input, weight, a, b, scale: [x[0], weight[0]])
    norm = kernel("rms_norm", 2, lambda x, weight, eps: (x, [x[0], 1]))
    attend = kernel("attention", 2, lambda q, k, v, mask: (q, q[:3]))
    attend_backward = kernel("attention_backward", 3, lambda dout, out, q, k, v, mask, sums: (q, k, v))

    def lora_linear(x, a_input, weight, a, b, scale):
        return product(x, a_input, weight, a, b, constant(scale))

    def rms_norm(x, weight, eps):
        return norm(x, weight, constant(eps))

    def attention(q, k, v, mask):
        """Saves one number for each query and head, from which the backward computes the probabilities again."""
        out, sums = attend(q, k, v, mask[0])
        return out.reshape(q.shape[0] * q.shape[1], -1), (sums,)

    def attention_backward(dout, out, q, k, v, mask, saved):
        return attend_backward(dout, out, q, k, v, mask[0], saved[0])

    functions = {
        "linear": kernel("linear", 1, lambda x, weight: [x[0], weight[0]]),
        "linear_dx": kernel("linear_dx", 1, lambda dy, weight: [dy[0], weight[1]]),
        "linear_dweight": kernel("linear_dweight", 1, lambda dy, x: [dy[1], x[1]]),
        "lora_linear": lora_linear,
        "lora_linear_dx": kernel("lora_linear_dx", 1, lambda dy, inner, weight, a: [dy[0], weight[1]]),
        "rms_norm": rms_norm,
        "rms_norm_backward": kernel("rms_norm_backward", 2, lambda dy, x, rstd, weight: (x, weight)),
        "rotate": kernel("rotate", 1, lambda x, cos, sin: x),
        "attention_mask": attention_mask,
        "attention": attention,
        "attention_backward": attention_backward,
        "swiglu": kernel("swiglu", 1, lambda gate, up: gate),
        "swiglu_backward": kernel("swiglu_backward", 3, lambda dy, gate, up: (gate, gate, gate)),
    }
    return functions if products else {name: found for name, found in functions.items() if name not in PRODUCTS}
