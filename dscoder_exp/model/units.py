"""The compiled units that the model is made of: each is compiled once a shape, whatever the model's depth.

MindSpore compiles a `ms.jit` function anew where an argument is another Parameter, or a tuple of arrays. So weights
are plain tensors here, arguments are flat, and operators that write in place (ScatterAdd, AdamWeightDecay) do so on
plain tensors too.
"""

from collections.abc import Callable
from typing import Any

import mindspore as ms

from dscoder_exp.model.block import make_block
from dscoder_exp.model.head import make_head
from dscoder_exp.model.kernels import kernels_for
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.schema.lora import Lora

DTYPES = {"fp32": ms.float32, "bf16": ms.bfloat16}

Announce = Callable[[str], None]


class Unit:
    """A compiled function that says so before a call that compiles."""

    def __init__(self, function: Callable[..., Any], name: str, announce: Announce, *, waits: bool) -> None:
        """
        Args:
            waits: return only when the result is there.
        """
        self._compiled: Any = ms.jit(function)
        self._name = name
        self._announce = announce
        self._waits = waits
        self._seen: set[tuple[Any, ...]] = set()

    def __call__(self, *arguments: ms.Tensor) -> Any:
        shapes = tuple(argument.shape for argument in arguments[:4])
        if shapes not in self._seen:
            self._announce(self._name)
            self._seen.add(shapes)
        result = self._compiled(*arguments)
        if self._waits:
            (result[0] if isinstance(result, (tuple, list)) else result).wait_pipeline()
        return result


class Units:
    """One model's units (block.py, head.py) for a device and a precision."""

    def __init__(self, config: LlamaConfig, lora: Lora | None, device: str, precision: str, announce: Announce) -> None:
        """
        Args:
            announce: called with a unit's name before it is compiled.
        """
        kernels, dtype = kernels_for(device), DTYPES[precision]
        self._announce = announce
        # On the CPU a call that is prepared while another one computes takes a core from it: at 512 tokens a block's
        # backward took 200 ms instead of 75. Decoding is bound by memory; there waiting costs more than it gains.
        self._waits = device == "cpu"
        unit = self.unit
        forward, backward, recomputing_backward, cached_run = make_block(config, kernels, lora)
        self.attention_mask = kernels.attention_mask
        self.forward = self.training_forward = unit(forward, "block forward")
        self.cached_run = unit(cached_run, "blocks with cache", waits=False)
        if lora is not None and lora.dropout > 0:
            forward, backward, recomputing_backward, _ = make_block(config, kernels, lora, drops=True)
            self.training_forward = unit(forward, "block forward")
        self.backward = unit(backward, "block backward")
        self.recomputing_backward = unit(recomputing_backward, "block backward")
        embed, embed_backward, logits, loss, loss_backward = make_head(config, kernels, dtype)
        self.embed = unit(embed, "embedding")
        self.embed_backward = unit(embed_backward, "embedding backward")
        self.logits = unit(logits, "logits", waits=False)
        self.loss = unit(loss, "loss")
        self.loss_backward = unit(loss_backward, "loss backward")

    def unit(self, function: Callable[..., Any], name: str, *, waits: bool = True) -> Unit:
        """One more unit, such as the optimizer's, that announces itself like the model's own."""
        return Unit(function, name, self._announce, waits=waits and self._waits)
