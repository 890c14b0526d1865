"""Functions of the kernel table in C++ (dscoder_exp/native), for the CPU where a compiler was found."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ops
from numpy.typing import NDArray

from dscoder_exp.device.memory import put
from dscoder_exp.model.kernels import cpu

Kernel = Callable[..., Any]
_add_to: Any = ops.AssignAdd()
ACTIVATIONS = None  # stands for the dtype of the activations


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


def native_functions(library: Path, precision: str, *, products: bool = True) -> dict[str, Callable[..., Any]]:
    """The functions that the library implements, by their names in the kernel table.

    Args:
        precision: of activations, and of the weights, which are rounded to it where they are held in fp32.
        products: the library has matrix products; it lacks them for an unknown build of oneDNN.
    """
    kernel = _kernels(library, precision)
    functions = {**_elementwise(kernel), **_attention(kernel)}
    if precision != "fp32":
        functions |= _half(kernel) | (_half_products(kernel) if products else _products_in_fp32(kernel))
    elif products:
        functions |= _products(kernel)
    return functions


def _kernels(library: Path, precision: str) -> Kernel:
    """kernel(name, shapes, types): a C++ function as an operator.

    shapes computes the outputs' shapes from the inputs' shapes. types: the outputs' dtypes; ACTIVATIONS: the model's.
    """
    dtypes = {"fp32": ms.float32, "bf16": ms.bfloat16, "fp16": ms.float16}

    def kernel(name: str, shapes: Callable[..., Any], *types: Any, suffix: str = f"_{precision}") -> Any:
        found: Any = tuple(dtypes[precision] if dtype is ACTIVATIONS else dtype for dtype in types)
        return ops.Custom(f"{library}:{name}{suffix}", shapes, found if len(found) > 1 else found[0], "aot")

    return kernel


def _constant(number):
    return ms.Tensor([number], ms.float32)


def _elementwise(kernel: Kernel) -> dict[str, Callable[..., Any]]:
    norm = kernel("rms_norm", lambda x, weight, eps: (x, [x[0], 1]), ACTIVATIONS, ms.float32)
    norm_backward = kernel("rms_norm_backward", lambda dy, x, rstd, weight: (x, weight), ACTIVATIONS, ms.float32)

    def rms_norm(x, weight, eps):
        return norm(x, ops.cast(weight, x.dtype), _constant(eps))

    def rms_norm_backward(dy, x, rstd, weight):
        return norm_backward(dy, x, rstd, ops.cast(weight, x.dtype))

    return {
        "rms_norm": rms_norm,
        "rms_norm_backward": rms_norm_backward,
        "rotate": kernel("rotate", lambda x, cos, sin: x, ACTIVATIONS),
        "softmax_gradient": kernel("softmax_gradient", lambda scores, ids: (scores, ids), ACTIVATIONS, ms.float32),
        "swiglu": kernel("swiglu", lambda gate, up: gate, ACTIVATIONS),
        "swiglu_backward": kernel("swiglu_backward", lambda dy, gate, up: (gate, gate, gate), *[ACTIVATIONS] * 3),
    }


def _attention(kernel: Kernel) -> dict[str, Callable[..., Any]]:
    attend = kernel("attention", lambda q, k, v, mask: ([q[0] * q[1], q[2] * q[3]], q[:3]), ACTIVATIONS, ms.float32)
    attend_backward = kernel("attention_backward", lambda dout, out, q, k, v, mask, sums: (q, k, v), *[ACTIVATIONS] * 3)

    def attention(q, k, v, mask):
        """Saves one number for each query and head, from which the backward computes the probabilities again."""
        out, sums = attend(q, k, v, mask[0])
        return out, (sums,)

    def attention_backward(dout, out, q, k, v, mask, saved):
        return attend_backward(dout, out, q, k, v, mask[0], saved[0])

    return {"attention_mask": attention_mask, "attention": attention, "attention_backward": attention_backward}


def _in_place(kernel: Kernel, name: str) -> Any:
    """A function of three arrays that writes to the first one."""
    function = kernel(name, lambda into, x, y: [1], ms.int32)
    function.add_prim_attr("side_effect_mem", True)  # without it MindSpore leaves out a call whose result is unused
    return function


def _products(kernel: Kernel) -> dict[str, Callable[..., Any]]:
    """Matrix products in fp32."""
    product = kernel("lora_linear", lambda x, a_input, weight, a, b, scale: [x[0], weight[0]], ACTIVATIONS, suffix="")

    def lora_linear(x, a_input, weight, a, b, scale):
        return product(x, a_input, weight, a, b, _constant(scale))

    return {
        "linear": kernel("linear", lambda x, weight: [x[0], weight[0]], ACTIVATIONS),
        "linear_dx": kernel("linear_dx", lambda dy, weight: [dy[0], weight[1]], ACTIVATIONS),
        "linear_dweight": kernel("linear_dweight", lambda dy, x: [dy[1], x[1]], ms.float32),
        "add_linear_dweight": _in_place(kernel, "add_linear_dweight"),
        "lora_linear": lora_linear,
        "lora_linear_dx": kernel(
            "lora_linear_dx", lambda dy, inner, weight, a: [dy[0], weight[1]], ACTIVATIONS, suffix=""
        ),
    }


def _half_products(kernel: Kernel) -> dict[str, Callable[..., Any]]:
    """Matrix products in bf16 or fp16."""
    product = kernel("linear", lambda x, weight: [x[0], weight[0]], ACTIVATIONS)
    product_dx = kernel("linear_dx", lambda dy, weight: [dy[0], weight[1]], ACTIVATIONS)
    narrow = _narrow(kernel)

    def linear(x, weight):
        return product(x, narrow(weight, x))

    def linear_dx(dy, weight):
        return product_dx(dy, narrow(weight, dy))

    return _with_lora(kernel, linear, linear_dx) | {
        "linear_dweight": kernel("linear_dweight", lambda dy, x: [dy[1], x[1]], ms.float32),
        "add_linear_dweight": _in_place(kernel, "add_linear_dweight"),
    }


def _products_in_fp32(kernel: Kernel) -> dict[str, Callable[..., Any]]:
    """MindSpore's products, which are in fp32 or slow."""

    def linear(x, weight):
        return ops.cast(cpu.linear(cpu.widen(x), cpu.widen(ops.cast(weight, x.dtype))), x.dtype)

    def linear_dx(dy, weight):
        return ops.cast(cpu.linear_dx(cpu.widen(dy), cpu.widen(ops.cast(weight, dy.dtype))), dy.dtype)

    def linear_dweight(dy, x):
        return ops.cast(cpu.linear_dweight(cpu.widen(dy), cpu.widen(x)), x.dtype)

    def add_linear_dweight(total, dy, x):
        _add_to(total, ops.cast(linear_dweight(dy, x), ms.float32))

    return _with_lora(kernel, linear, linear_dx) | {
        "linear_dweight": linear_dweight,
        "add_linear_dweight": add_linear_dweight,
    }


def _with_lora(kernel: Kernel, linear: Any, linear_dx: Any) -> dict[str, Callable[..., Any]]:
    """These products, and LoRA's made of them, rounded where cpu.py's are."""
    add, add_scaled = _add(kernel), kernel("add_scaled", lambda x, y, scale: x, ACTIVATIONS)

    def lora_linear(x, a_input, weight, a, b, scale):
        return add_scaled(linear(x, weight), linear(linear(a_input, a), b), _constant(scale))

    def lora_linear_dx(dy, inner, weight, a):
        return add(linear_dx(dy, weight), linear_dx(inner, a))

    return {"linear": linear, "linear_dx": linear_dx, "lora_linear": lora_linear, "lora_linear_dx": lora_linear_dx}


def _add(kernel: Kernel) -> Any:
    return kernel("add", lambda x, y: x, ACTIVATIONS)


def _narrow(kernel: Kernel) -> Any:
    to_narrow = kernel("narrow", lambda x: x, ACTIVATIONS)

    def narrow(x, like):
        if x.dtype == like.dtype:
            return x
        return to_narrow(x)

    return narrow


def _half(kernel: Kernel) -> dict[str, Callable[..., Any]]:
    """What MindSpore doesn't compute in bf16, or slowly."""
    take = kernel("take_rows", lambda table, ids: [ids[0], table[1]], ACTIVATIONS)
    write = _in_place(kernel, "add_rows")

    def take_rows(table, ids):
        if table.dtype == ms.float32:
            return cpu.take_rows(table, ids)
        return take(table, ids)

    def add_rows(table, ids, x):
        if table.dtype == ms.float32:
            cpu.add_rows(table, ids, x)
        else:
            write(table, ids, x)

    return {
        "add": _add(kernel),
        "widen": kernel("widen", lambda x: x, ms.float32),
        "narrow": _narrow(kernel),
        "split_heads": kernel("split_heads", lambda x, cos: [*cos[:2], x[1] // cos[3], cos[3]], ACTIVATIONS),
        "join_heads": kernel("join_heads", lambda x: [x[0] * x[1], x[2] * x[3]], ACTIVATIONS),
        "take_rows": take_rows,
        "add_rows": add_rows,
    }
