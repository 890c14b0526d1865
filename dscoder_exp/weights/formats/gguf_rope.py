"""Rope scaling of a GGUF file, by the names of config.json, as convert_hf_to_gguf.py writes it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.schema.llama import RopeScaling
from dscoder_exp.weights.formats.gguf_reader import Reader, shortest_decimal
from dscoder_exp.weights.rotary_frequencies import llama3_divisors, plain_frequencies

DIVISORS_IN_FILE = "rope_freqs.weight"  # by what each frequency is divided; written for llama3 alone [head_dim / 2]
TOLERANCE = 1e-4  # relative, of float32 divisors
# of yarn, below llama.rope.scaling
YARN_KEYS = {
    "original_max_position_embeddings": "original_context_length",
    "attention_factor": "yarn_attn_factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}


def rope_scaling_in(reader: Reader, divisors: NDArray[np.float32] | None, theta: float | None) -> dict[str, Any] | None:
    """The file's rope scaling, as config.json's rope_scaling; what has no name there has an unsupported type.

    Args:
        divisors: the tensor DIVISORS_IN_FILE, if there is one.
    """
    if divisors is not None:
        return _llama3(np.asarray(divisors, np.float64), theta or 10000.0)
    factor = reader.value("llama.rope.scaling.factor") or reader.value("llama.rope.scale_linear")
    kind = reader.value("llama.rope.scaling.type") or "linear"
    if kind == "none" or (kind == "linear" and not factor):
        return None
    found = {"rope_type": kind, "factor": shortest_decimal(factor)}
    if kind == "yarn":
        if (extrapolation := reader.value("llama.rope.scaling.yarn_ext_factor")) not in (None, -1, 1):
            return {"rope_type": f"yarn with yarn_ext_factor {extrapolation:g}"}
        found |= {name: shortest_decimal(reader.value(f"llama.rope.scaling.{key}")) for name, key in YARN_KEYS.items()}
    return found


def _llama3(divisors: NDArray[np.float64], theta: float) -> dict[str, Any] | None:
    """llama3's parameters that give these divisors, which are all that a file holds of them."""
    if np.allclose(divisors, 1, rtol=TOLERANCE):
        return None
    with np.errstate(all="ignore"):  # of a damaged file
        frequencies = plain_frequencies(2 * len(divisors), theta)
    for scaling in _candidates(divisors, frequencies):
        if np.allclose(llama3_divisors(frequencies, scaling), divisors, rtol=TOLERANCE):
            return scaling.given
    return {"rope_type": f"{DIVISORS_IN_FILE} with other values than llama3's"}


def _candidates(divisors: NDArray[np.float64], frequencies: NDArray[np.float64]) -> Iterator[RopeScaling]:
    """Llama 3's own factors with each length that is a power of two; then those of the line through two divisors.

    low_freq_factor can be 1 without loss: multiplying it, high_freq_factor and the length by a number changes nothing.
    """
    factor = float(divisors.max())
    for whole in (
        factor,
        *(2.0**power for power in range(1, 8)),
    ):  # no pair of a short head is slow enough for all of it
        for power in range(4, 25):
            yield RopeScaling("llama3", whole, 2**power, 1.0, 4.0)
    smooth = np.flatnonzero((divisors > 1 + TOLERANCE) & (divisors < factor * (1 - TOLERANCE)))
    if len(smooth) < 2:
        return
    ends = smooth[[0, -1]]
    kept = (1 / divisors[ends] - 1 / factor) / (1 - 1 / factor)  # (turns - low) / (high - low)
    slope = (kept[0] - kept[1]) / (frequencies[ends[0]] - frequencies[ends[1]])
    shift = slope * frequencies[ends[0]] - kept[0]
    if slope > 0 and shift > 0:
        yield RopeScaling("llama3", factor, round(2 * np.pi * slope / shift), 1.0, round(1 + 1 / shift, 3))
