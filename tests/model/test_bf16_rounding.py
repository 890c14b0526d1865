"""bf16 rounding of the Ascend kernels in a block, emulated with numpy: each gradient's error against fp32 is at most
the error of PyTorch's bf16 gradient (tests/reference/make_bf16_block.py).

docs/how-it-computes.md lists what is rounded where. `python tests/model/test_bf16_rounding.py` prints the errors.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bf16_support import (
    CASES,
    EPS,
    GRADIENTS,
    HEADS,
    HIDDEN,
    INNER,
    KEY_HEADS,
    SEEDS,
    SIZE,
    STRIDE,
    THETA,
    Array,
    causal_mask,
    errors,
    inputs,
    positions,
    rounded,
)

from dscoder_exp.model.block import make_block
from dscoder_exp.model.kernels import Kernels
from dscoder_exp.model.rotary import rotary_tables
from dscoder_exp.model.tensor_parallel import make_block_collectives
from dscoder_exp.parallel.collectives import ALONE
from dscoder_exp.schema.llama import LlamaConfig

# Another CPU or BLAS sums in another order, so fp32 results differ in the last digits, and a value midway between two
# bf16 values may round the other way. That is rare, and changes an error by far less than this factor.
SLACK = 1.01
REFERENCE = Path(__file__).resolve().parents[1] / "reference" / "bf16_block" / "gradients.npz"
CONFIG = LlamaConfig(
    vocab_size=256,
    hidden_size=HIDDEN,
    intermediate_size=INNER,
    num_hidden_layers=1,
    num_attention_heads=HEADS,
    num_key_value_heads=KEY_HEADS,
    head_dim=SIZE,
    max_position_embeddings=512,
    rms_norm_eps=EPS,
    rope_theta=THETA,
    rope_scaling=None,
    tie_word_embeddings=False,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)


@dataclass(frozen=True)
class Bf16:
    """An array of bf16 values, stored as fp32; the result of each operator is rounded to bf16."""

    values: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def reshape(self, *shape: int) -> "Bf16":
        return Bf16(self.values.reshape(*shape))

    def __add__(self, other: "Bf16") -> "Bf16":
        return narrow(self.values + other.values)

    def __sub__(self, other: "Bf16") -> "Bf16":
        return narrow(self.values - other.values)

    def __mul__(self, other: "Bf16") -> "Bf16":
        return narrow(self.values * other.values)


def narrow(values: Array) -> Bf16:
    return Bf16(rounded(values))


def same(values: Array) -> Array:
    """Takes the place of `narrow` for the block in fp32."""
    return values


def wide(x: Any) -> Array:
    return x.values if isinstance(x, Bf16) else x


def norms(out: Callable[[Array], Any]) -> dict[str, Any]:
    """As AddRmsNorm, which rounds before and after it multiplies by the weight; RmsNorm alone rounds only after."""

    def rms_norm(x, weight, eps):
        rstd = 1 / np.sqrt(np.square(wide(x)).mean(-1, keepdims=True) + np.float32(eps))
        return out(wide(out(wide(x) * rstd)) * wide(weight)), rstd

    def rms_norm_backward(dy, x, rstd, weight):
        normed, scaled = wide(x) * rstd, wide(dy) * wide(weight)
        dx = rstd * (scaled - normed * (scaled * normed).mean(-1, keepdims=True))
        return out(dx), (wide(dy) * normed).sum(0)

    return {"rms_norm": rms_norm, "rms_norm_backward": rms_norm_backward}


def attentions(out: Callable[[Array], Any]) -> dict[str, Any]:
    """Flash attention, fp32 inside. Rounded are the results, and the arrays that enter the inner products: exponentials
    (forward, not yet divided by their sum), probabilities and the scores' gradient (backward).
    """
    group = HEADS // KEY_HEADS

    def heads_first(x, repeats=1):
        return np.repeat(wide(x)[0].swapaxes(0, 1), repeats, 0)  # [h, T, d]

    def heads_last(x):
        return out(x.swapaxes(0, 1)[None])

    def summed(x):
        """Sum over the query heads that share a key head."""
        return heads_last(x.reshape(KEY_HEADS, group, *x.shape[1:]).sum(1))

    def scores(q, k, mask):
        return heads_first(q) @ heads_first(k, group).swapaxes(1, 2) * np.float32(SIZE**-0.5) + mask[0]

    def attention(q, k, v, mask):
        scored = scores(q, k, mask)
        highest = scored.max(-1, keepdims=True)
        powers = np.exp(scored - highest)
        total = powers.sum(-1, keepdims=True)
        attended = wide(out(powers)) @ heads_first(v, group) / total
        return out(attended.swapaxes(0, 1).reshape(-1, HEADS * SIZE)), (highest, total)

    def attention_backward(dout, attended, q, k, v, mask, saved):
        highest, total = saved
        dout, attended = (heads_first(x.reshape(q.shape)) for x in (dout, attended))
        p = np.exp(scores(q, k, mask) - highest) / total
        dp = dout @ heads_first(v, group).swapaxes(1, 2)
        ds = wide(out(p * (dp - (dout * attended).sum(-1, keepdims=True))))
        scale = np.float32(SIZE**-0.5)
        dk, dv = ds.swapaxes(1, 2) @ heads_first(q) * scale, wide(out(p)).swapaxes(1, 2) @ dout
        return heads_last(ds @ heads_first(k, group) * scale), summed(dk), summed(dv)

    return {"attention": attention, "attention_backward": attention_backward}


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def swiglus(out: Callable[[Array], Any]) -> dict[str, Any]:
    def swiglu(gate, up):
        return out(wide(gate) * sigmoid(wide(gate)) * wide(up))

    def swiglu_backward(dy, gate, up):
        wide_dy, x, wide_up = wide(dy), wide(gate), wide(up)
        s = sigmoid(x)
        return out(wide_dy * wide_up * s * (1 + x * (1 - s))), out(wide_dy * x * s), swiglu(gate, up)

    return {"swiglu": swiglu, "swiglu_backward": swiglu_backward}


def rotated(x: Array, cos: Array, sin: Array) -> Array:
    first, second = np.split(x, 2, -1)
    return x * cos + np.concatenate((-second, first), -1) * sin


def kernel_table(out: Callable[[Array], Any]) -> Kernels:
    """A kernel table whose functions compute in fp32 and pass their results through `out`."""
    functions = dict.fromkeys((field.name for field in fields(Kernels)), None) | {
        "num_masks": 1,
        "linear": lambda x, weight: out(wide(x) @ wide(weight).T),
        "linear_dx": lambda dy, weight: out(wide(dy) @ wide(weight)),
        "linear_dweight": lambda dy, x: out(wide(dy).T @ wide(x)),
        "add": lambda x, y: x + y,
        "split_heads": lambda x, cos: x.reshape(*cos.shape[:2], -1, SIZE),
        "join_heads": lambda x: x.reshape(x.shape[0] * x.shape[1], -1),
        "rotate": lambda x, cos, sin: out(rotated(wide(x), cos, sin)),
    }
    return Kernels(**(functions | norms(out) | attentions(out) | swiglus(out)))  # type: ignore[arg-type]


def rotate_by_bf16_tables(x, cos, sin):
    """The fused operator called with bf16 x, which takes bf16 tables."""
    return narrow(rotated(wide(x), rounded(cos), rounded(sin)))


def rotate_of_bf16_operators(x, cos, sin):
    """Rotation composed of bf16 operators."""
    first, second = np.split(x.values, 2, -1)
    return x * narrow(cos) + Bf16(np.concatenate((-second, first), -1)) * narrow(sin)


def swiglu_backward_of_bf16_operators(dy, gate, up):
    """SwiGLU's backward composed of bf16 operators, as kernels/cpu.py composes it of fp32 operators."""
    s = narrow(sigmoid(gate.values))
    silu = gate * s
    return dy * up * (s + silu - silu * s), dy * silu, silu * up


EXACT, ASCEND = kernel_table(same), kernel_table(narrow)
WORSE = {
    "rotate with bf16 tables": replace(ASCEND, rotate=rotate_by_bf16_tables),
    "rotate of bf16 operators": replace(ASCEND, rotate=rotate_of_bf16_operators),
    "SwiGLU's backward of bf16 operators": replace(ASCEND, swiglu_backward=swiglu_backward_of_bf16_operators),
}


def gradients(case: str, seed: int, kernels: Kernels) -> dict[str, Array]:
    """Gradients of block.py's own functions, run on numpy arrays."""
    forwards, backwards = make_block(CONFIG, kernels, make_block_collectives(ALONE, sequence=False))
    x, dy, weights = inputs(case, seed)
    convert = same if kernels is EXACT else Bf16
    cos, sin = (table[None, :, None] for table in rotary_tables(CONFIG, positions()))
    mask = np.where(causal_mask(), np.float32(0), np.float32(-1e9))
    others = cos, sin, mask, *(convert(weight) for weight in weights.values())
    _, *saved = forwards["none"](convert(x), *others)
    found = backwards["none"](convert(dy), convert(x), *others, *saved)
    return {name: wide(gradient) for name, gradient in zip(GRADIENTS, found, strict=True)}


@cache
def exact_gradients(case: str) -> list[dict[str, Array]]:
    return [gradients(case, seed, EXACT) for seed in SEEDS]


def errors_of(case: str, kernels: Kernels) -> dict[str, float]:
    """Each gradient's relative error against fp32."""
    return errors([gradients(case, seed, kernels) for seed in SEEDS], exact_gradients(case))


@cache
def reference() -> dict[str, Array]:
    with np.load(REFERENCE) as kept:
        return dict(kept)


def errors_of_pytorch(case: str) -> dict[str, float]:
    """Each gradient's relative error in PyTorch, the smaller one of its SDPA and eager attention."""
    found = np.minimum(*(reference()[f"{case}.{attention}"] for attention in ("sdpa", "eager")))
    return dict(zip(GRADIENTS, found.tolist(), strict=True))


def worse_than_pytorch(case: str, kernels: Kernels) -> list[str]:
    """Names of the gradients with a larger error than PyTorch's."""
    allowed, found = errors_of_pytorch(case), errors_of(case, kernels)
    return [name for name in GRADIENTS if found[name] > allowed[name] * SLACK]


@pytest.mark.parametrize("case", CASES)
def test_fp32_gradients_equal_pytorchs(case: str) -> None:
    """Otherwise the errors of both sides would not be comparable."""
    for name, gradient in exact_gradients(case)[0].items():
        theirs = reference()[f"{case}.fp32.{name}"]
        ours = gradient.reshape(-1)[::STRIDE]
        assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs), name


@pytest.mark.parametrize("case", CASES)
def test_bf16_gradients_are_as_close_to_fp32_as_pytorchs(case: str) -> None:
    assert worse_than_pytorch(case, ASCEND) == []


@pytest.mark.parametrize("case", CASES)
def test_composed_swiglu_backward_makes_the_gate_gradient_worse_than_pytorchs(case: str) -> None:
    assert "mlp.gate_proj" in worse_than_pytorch(case, WORSE["SwiGLU's backward of bf16 operators"])


def test_bf16_rotary_tables_increase_every_gradients_error() -> None:
    """Every gradient depends on attention's x or dx. PyTorch's tables are in bf16."""
    kept, worse = (errors_of("trained", kernels) for kernels in (ASCEND, WORSE["rotate with bf16 tables"]))
    assert all(worse[name] > 1.02 * kept[name] for name in GRADIENTS), (kept, worse)


def test_composed_swiglu_backward_has_three_times_the_error() -> None:
    """At gate values of a trained model."""
    rng = np.random.default_rng(0)
    dy, gate, up = (narrow(by * rng.standard_normal((512, INNER), np.float32)) for by in (1, 1.6, 1.6))
    exact = EXACT.swiglu_backward(dy.values, gate.values, up.values)[0]
    fused, composed = (
        np.linalg.norm(backward(dy, gate, up)[0].values - exact)
        for backward in (ASCEND.swiglu_backward, swiglu_backward_of_bf16_operators)
    )
    assert composed > 3 * fused


if __name__ == "__main__":
    for case in CASES:
        table = {"PyTorch": errors_of_pytorch(case), "Ascend's kernels": errors_of(case, ASCEND)}
        table |= {what: errors_of(case, kernels) for what, kernels in WORSE.items()}
        print(f"{case:38}", *(f"{name.split('.')[-1][:10]:>10}" for name in GRADIENTS))
        for what, row in table.items():
            print(f"{what:38}", *(f"{1000 * row[name]:10.2f}" for name in GRADIENTS))
