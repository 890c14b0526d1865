"""Builds a model on the device from weights on disk, or from random weights."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.model.compiled import Announce
from dscoder_exp.model.llama import Llama
from dscoder_exp.native.library import library
from dscoder_exp.parallel.collectives import ALONE, Mesh
from dscoder_exp.schema.errors import refuse
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.lora.adapter import Adapter, Factors
from dscoder_exp.weights.names import parameter_shapes
from dscoder_exp.weights.random_init import random_tensor, random_weights
from dscoder_exp.weights.source import WeightSource


def build(
    config: LlamaConfig,
    source: WeightSource | None,
    *,
    seed: int,
    device: str,
    precision: str,
    adapter: Adapter | None = None,
    factors: Factors | None = None,
    frozen: bool = False,
    mesh: Mesh = ALONE,
    announce: Announce = lambda name: None,
) -> Llama:
    """Build the model of a source that weights/check.py has checked.

    Args:
        source: the weights; None: all are random.
        seed: of the random values, also for tensors that the source lacks.
        adapter: LoRA adapter to merge into the weights.
        factors: LoRA factors to train instead of the weights.
        frozen: train nothing.
        mesh: the ranks that hold the model together.
        announce: called with a compiled function's name before it is compiled.

    Raises:
        Refused: bf16 on a CPU without the C++ kernels.
    """
    if device == "cpu" and precision == "bf16" and library().path is None:
        what = f"on a CPU bf16 needs the C++ kernels ({library().why})"
        raise refuse("runtime.precision", what, "install a C++ compiler, or runtime.precision=fp32")
    weights = random_weights(config, seed) if source is None else _read(config, source, seed)
    if adapter is not None:
        weights = ((name, adapter.merge_rows(name, array, 0, "F32")) for name, array in weights)
    return Llama(
        config,
        weights,
        device=device,
        precision=precision,
        factors=factors,
        frozen=frozen,
        mesh=mesh,
        announce=announce,
    )


def _read(config: LlamaConfig, source: WeightSource, seed: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    found = source.shapes()
    for name in parameter_shapes(config):
        yield name, source.tensor(name) if name in found else random_tensor(config, seed, name)
