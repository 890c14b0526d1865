"""Inputs of a block and of the head, for test_bf16_*.py and for ../reference/make_bf16_block.py.

The latter runs PyTorch without dscoder_exp. All inputs are drawn from a seed and are exact in bf16, so that both sides
start from the same values in any precision.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

HEADS, KEY_HEADS, SIZE = 4, 2, 64
HIDDEN, INNER = 256, 688
LENGTHS = (40, 61, 27)  # of the documents; positions restart at 0 in each
THETA, EPS = 10000.0, 1e-6
SEEDS = range(16)  # several, since a few large elements may dominate one draw's gradient
STRIDE = 97  # the reference keeps every 97th element of an fp32 gradient, enough to recognize the same gradient

# A block's weights by Hugging Face's names, in the order in which the block takes them.
SHAPES = {
    "input_layernorm": (HIDDEN,),
    "self_attn.q_proj": (HEADS * SIZE, HIDDEN),
    "self_attn.k_proj": (KEY_HEADS * SIZE, HIDDEN),
    "self_attn.v_proj": (KEY_HEADS * SIZE, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * SIZE),
    "post_attention_layernorm": (HIDDEN,),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
GRADIENTS = ("x", *SHAPES)
HEAD_GRADIENTS = ("x", "norm", "lm_head")

# Case: (standard deviation of the weights, factor of one channel of x). initial: weights as at the start of training.
# trained: larger weights, with sharp attention and SwiGLU outside its linear range near zero. outlier: one channel of x
# is 60 times as large as the others ("massive activations", arXiv:2402.17762).
CASES = {"initial": (0.02, 1.0), "trained": (0.1, 1.0), "outlier": (0.02, 60.0)}

# Cases of the head: how strongly a row of x points to its label's row of the table, drawn from these values. `mixed`:
# very different losses per row, 1.8 nats on average. `fitted`: small losses, as late in fine-tuning, 0.06 nats.
VOCABULARY = 2048
HEAD_CASES = {"mixed": (0.5, 2.0, 3.0, 4.0, 6.0, 8.0), "fitted": (5.0,)}


def rounded(values: Array) -> Array:
    """Values rounded to the nearest bf16, ties to even, as fp32. NaN isn't supported."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


def inputs(case: str, seed: int) -> tuple[Array, Array, dict[str, Array]]:
    """A block's x and dy, both [T, H], and its weights by name."""
    deviation, factor = CASES[case]
    rng, rows = np.random.default_rng(seed), (sum(LENGTHS), HIDDEN)
    x, dy = (rng.standard_normal(rows, np.float32) for _ in range(2))
    x[:, 5] *= factor
    drawn = {name: rng.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}
    weights = {name: 1 + 0.1 * w if w.ndim == 1 else deviation * w for name, w in drawn.items()}
    return rounded(x), rounded(dy), {name: rounded(w) for name, w in weights.items()}


def head_inputs(case: str, seed: int) -> tuple[Array, Array, Array, NDArray[np.int32]]:
    """The head's x [N, H], norm weight [H], table [V, H] and labels [N]."""
    rng, count = np.random.default_rng(seed), sum(LENGTHS)
    table = 0.06 * rng.standard_normal((VOCABULARY, HIDDEN), np.float32)
    labels = rng.integers(0, VOCABULARY, count).astype(np.int32)
    towards = table[labels] / np.linalg.norm(table[labels], axis=1, keepdims=True)
    strength = rng.choice(np.array(HEAD_CASES[case], np.float32), (count, 1))
    x = 0.9 * rng.standard_normal((count, HIDDEN), np.float32) + 3 * strength * towards
    return rounded(x), rounded(1 + 0.1 * rng.standard_normal(HIDDEN, np.float32)), rounded(table), labels


def positions() -> NDArray[np.int64]:
    return np.concatenate([np.arange(length) for length in LENGTHS])


def causal_mask() -> NDArray[np.bool_]:
    """[T, T]: True where the key is in the query's document and not after the query."""
    document = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    return np.tril(document[:, None] == document)


def errors(found: list[dict[str, Array]], exact: list[dict[str, Array]]) -> dict[str, float]:
    """Relative L2 error of each gradient, over its elements from all seeds.

    Args:
        found, exact: one dict of gradients per seed.
    """

    def summed(differences: Iterable[Array]) -> float:
        return sum(float(np.square(difference, dtype=np.float64).sum()) for difference in differences)

    return {
        name: (summed(f[name] - e[name] for f, e in zip(found, exact, strict=True)) / summed(e[name] for e in exact))
        ** 0.5
        for name in exact[0]
    }
