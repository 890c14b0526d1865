"""The compiled functions that the model is made of: each is compiled once a shape, whatever the model's depth.

MindSpore compiles a `ms.jit` function anew where an argument is another Parameter, or a tuple of arrays. So weights
are plain tensors here, arguments are flat, and operators that write in place (ScatterAdd, AdamWeightDecay) do so on
plain tensors too.
"""

import time
from collections.abc import Callable
from typing import Any

import mindspore as ms
from mindspore import ops

from dscoder_exp.model.block import make_block
from dscoder_exp.model.head import make_head
from dscoder_exp.model.kernels import Function, kernels_for
from dscoder_exp.model.tensor_parallel import make_sharing
from dscoder_exp.parallel.collectives import Mesh, identity
from dscoder_exp.schema.llama import LlamaConfig, Lora

DTYPES = {"fp32": ms.float32, "bf16": ms.bfloat16, "fp16": ms.float16}

Announce = Callable[[str], None]
SHAPE_ARGUMENTS = 5  # first arguments of a function, whose shapes tell those of the others


class CompiledFunction:
    """A compiled function that says so before a call that compiles.

    Attributes:
        compile_seconds: spent in calls that compiled, their computing included.
    """

    def __init__(self, function: Callable[..., Any], name: str, announce: Announce, *, waits: bool) -> None:
        """
        Args:
            waits: return only when the result is there.
        """
        level = ms.get_context("jit_level") or "O0"  # device/start.py chose it
        self._compiled: Any = ms.jit(function, jit_level=level)
        self._name = name
        self._announce = announce
        self._waits = waits
        self._seen: set[tuple[Any, ...]] = set()
        self.compile_seconds = 0.0

    def __call__(self, *arguments: ms.Tensor) -> Any:
        shapes = tuple(argument.shape for argument in arguments[:SHAPE_ARGUMENTS])
        if shapes in self._seen:
            return self._call(*arguments)
        self._seen.add(shapes)
        self._announce(self._name)
        started = time.perf_counter()
        result = self._call(*arguments)
        self.compile_seconds += time.perf_counter() - started
        return result

    def _call(self, *arguments: ms.Tensor) -> Any:
        result = self._compiled(*arguments)
        if self._waits:
            (result[0] if isinstance(result, (tuple, list)) else result).wait_pipeline()
        return result


class CompiledFunctions:
    """One model's compiled functions (block.py, head.py), for a device and a precision.

    Attributes:
        device: "cpu" or "ascend".
    """

    def __init__(
        self, config: LlamaConfig, lora: Lora | None, mesh: Mesh, device: str, precision: str, announce: Announce
    ) -> None:
        """
        Args:
            config: of this rank's part of the model.
            announce: called with a function's name before it is compiled.
        """
        kernels, dtype = kernels_for(device, precision), DTYPES[precision]
        self.device = device
        self._all: list[CompiledFunction] = []
        self._announce = announce
        sharing, whole = (make_sharing(mesh, sequence=by_rows) for by_rows in (mesh.topology.sequence, False))
        forwards, backwards, _ = make_block(config, kernels, sharing, lora)
        self.attention_mask, self.dropout_mask = kernels.attention_mask, kernels.dropout_mask
        self.forward = self.training_forward = self._forward(forwards)
        if lora is not None and lora.dropout > 0:
            forwards, backwards, _ = make_block(config, kernels, sharing, lora, drops=True)
            self.training_forward = self._forward(forwards)
        self.backward = {how: self.compile(backward, "block backward") for how, backward in backwards.items()}
        embed, _, embed_backward, logits, loss, loss_backward = make_head(
            config, kernels, sharing, mesh.tp_group, dtype
        )
        self.embed = self.compile(embed, "embedding")
        self.embed_backward = self.compile(embed_backward, "embedding backward")
        self.logits = self.compile(logits, "logits", waits=False)
        self.loss = self.compile(loss, "loss")
        self.loss_backward = self.compile(loss_backward, "loss backward")
        self.cached_embed = self.compile(make_head(config, kernels, whole, mesh.tp_group, dtype)[1], "embedding")
        self.cached_run = self.compile(make_block(config, kernels, whole, lora)[2], "blocks with cache", waits=False)
        self.all_rows, self.own_rows = self._rows(mesh) if mesh.topology.sequence else (identity, identity)

    def _forward(self, forwards: dict[str, Function]) -> dict[str, CompiledFunction]:
        """A block's forward for each train.recompute; on the CPU one for all, since what it returns exists anyway."""
        if self.device == "cpu":
            return dict.fromkeys(forwards, self.compile(forwards["none"], "block forward"))
        return {how: self.compile(forward, "block forward") for how, forward in forwards.items()}

    def _rows(self, mesh: Mesh) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """From a rank's rows [N / t, H] to all of them, and back: between the last block and the head."""
        gather, rank, count = mesh.tp_group.all_gather, mesh.tp_group.rank, mesh.tp_group.size
        cut = ops.Slice()

        def all_rows(x):
            return gather(x)

        def own_rows(x):
            rows = x.shape[0] // count
            return cut(x, (rank * rows, 0), (rows, x.shape[1]))

        return self.compile(all_rows, "all rows"), self.compile(own_rows, "own rows")

    def compile(self, function: Callable[..., Any], name: str, *, waits: bool = True) -> CompiledFunction:
        """One more function, such as the optimizer's, that announces itself like the model's own."""
        # On the CPU a call that is prepared while another one computes takes a core from it: at 512 tokens a block's
        # backward took 200 ms instead of 75. Decoding is bound by memory; there waiting costs more than it gains.
        self._all.append(CompiledFunction(function, name, self._announce, waits=waits and self.device == "cpu"))
        return self._all[-1]

    @property
    def compile_seconds(self) -> float:
        """Spent so far in calls that compiled."""
        return sum(function.compile_seconds for function in self._all)
