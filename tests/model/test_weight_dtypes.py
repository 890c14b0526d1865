"""The dtype of weights in memory: runtime.precision, and of those that are trained an fp32 master copy, too."""

from pathlib import Path

import mindspore as ms
import numpy as np

from dscoder_exp.device.start import start_device
from dscoder_exp.model.build import build
from dscoder_exp.schema.config import MODULES
from dscoder_exp.schema.llama import Lora
from dscoder_exp.weights.lora.adapter import Factors
from dscoder_exp.weights.random_init import random_factors
from dscoder_exp.weights.source import open_weights

SOURCE = open_weights(str(Path(__file__).parents[1] / "reference" / "tiny_gqa"))
IDS = np.arange(3, 51, dtype=np.int32).reshape(2, 24)


def model_in_fp16(**options):
    start_device("cpu")
    return build(SOURCE.config, SOURCE, seed=0, device="cpu", precision="fp16", **options)


def dtypes(groups):
    return {tensor.dtype for group in groups for tensor in group}


def logits(model):
    return model.logits(model.inputs(IDS, np.tile(np.arange(24, dtype=np.int32), (2, 1)), np.zeros_like(IDS)))


def test_frozen_weights_are_fp16_and_give_the_same_logits_bit_by_bit():
    frozen, trained = model_in_fp16(frozen=True), model_in_fp16()
    assert dtypes(frozen.groups) == dtypes(trained.groups) == {ms.float16}
    assert dtypes([trained.masters.slices]) == {ms.float32}
    np.testing.assert_array_equal(logits(frozen), logits(trained))


def test_with_lora_weights_are_fp16_and_factors_fp32():
    lora = Lora(4, 8.0, 0.0, MODULES)
    model = model_in_fp16(factors=Factors(lora, dict(random_factors(SOURCE.config, lora, 3))))
    assert (dtypes(model.groups), dtypes([model.masters.slices])) == ({ms.float16}, {ms.float32})
