"""The model's compiled functions; each is compiled once per input shape, whatever the number of layers.

MindSpore compiles a `ms.jit` function again when an argument is a different Parameter, or is a tuple of arrays. So
weights are plain tensors, arguments are flat, and operators that write in place (ScatterAdd, AdamWeightDecay) write to
plain tensors too.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import mindspore as ms
from mindspore import ops

from dscoder_exp.model.block import make_block, make_cached_run
from dscoder_exp.model.head import make_cached_embed, make_embedding, make_head
from dscoder_exp.model.kernels import Function, kernels_for
from dscoder_exp.model.tensor_parallel import make_block_collectives
from dscoder_exp.parallel.collectives import Mesh, identity
from dscoder_exp.schema.llama import LlamaConfig, Lora

if TYPE_CHECKING:
    from dscoder_exp.model.fused_decoding import FusedDecoding

DTYPES = {"fp32": ms.float32, "bf16": ms.bfloat16, "fp16": ms.float16}

Announce = Callable[[str], None]
SHAPE_ARGUMENTS = 5  # a function's first arguments; their shapes determine those of the others


class CompiledFunction:
    """A function compiled by `ms.jit`; announces its name before a call that compiles.

    Attributes:
        compile_seconds: total duration of the calls that compiled, their computation included.
    """

    def __init__(self, function: Callable[..., Any], name: str, announce: Announce, *, waits: bool) -> None:
        """
        Args:
            waits: block each call until its result is computed.
        """
        level = ms.get_context("jit_level") or "O0"  # set by device/start.py
        self._compiled: Any = ms.jit(function, jit_level=level)
        self._name = name
        self._announce = announce
        self._waits = waits
        self._compiled_shapes: set[tuple[Any, ...]] = set()
        self.compile_seconds = 0.0

    def __call__(self, *arguments: ms.Tensor) -> Any:
        shapes = tuple(argument.shape for argument in arguments[:SHAPE_ARGUMENTS])
        if shapes in self._compiled_shapes:
            return self._call(*arguments)
        self._compiled_shapes.add(shapes)
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
        forward: a block's forward without dropout, by train.recompute.
        training_forward: a block's forward with lora.dropout; equals `forward` where that is 0.
        backward: a block's backward, by train.recompute.
        cached_embed, cached_run: decoding over a key/value cache on the CPU.
        decoding: decoding on Ascend.
        all_rows, own_rows: gather x over sequence-parallel ranks before the head, and take this rank's rows of dx.
    """

    decoding: "FusedDecoding"

    def __init__(
        self,
        config: LlamaConfig,
        lora: Lora | None,
        mesh: Mesh,
        device: str,
        precision: str,
        announce: Announce,
        *,
        merged: bool = False,
    ) -> None:
        """
        Args:
            config: of this rank's part of the model.
            merged: whether matrices are merged for `decoding` (frozen.py).
            announce: called with a function's name before it is compiled.
        """
        kernels, dtype, group = kernels_for(device, precision), DTYPES[precision], mesh.tp_group
        self.device = device
        self._all: list[CompiledFunction] = []
        self._announce = announce
        self.attention_mask, self.dropout_mask = kernels.attention_mask, kernels.dropout_mask
        by_rows = make_block_collectives(mesh, sequence=mesh.topology.sequence)
        forwards, backwards = make_block(config, kernels, by_rows, lora)
        self.forward = self.training_forward = self._compile_forwards(forwards)
        if lora is not None and lora.dropout > 0:
            forwards, backwards = make_block(config, kernels, by_rows, lora, dropout=True)
            self.training_forward = self._compile_forwards(forwards)
        self.backward = {
            recompute: self.compile(backward, "block backward") for recompute, backward in backwards.items()
        }
        embed, embed_backward = make_embedding(config, kernels, by_rows, group, dtype)
        self.embed = self.compile(embed, "embedding")
        self.embed_backward = self.compile(embed_backward, "embedding backward")
        logits, loss, loss_backward = make_head(config, kernels, group)
        self.logits = self.compile(logits, "logits", waits=False)
        self.loss = self.compile(loss, "loss")
        self.loss_backward = self.compile(loss_backward, "loss backward")
        replicated = make_block_collectives(mesh, sequence=False)
        if device == "ascend":
            from dscoder_exp.model.fused_decoding import make_fused_decoding

            self.decoding = self._compile_decoding(
                make_fused_decoding(config, kernels, replicated, group, dtype, lora, merged=merged)
            )
        else:
            cached_embed = make_cached_embed(config, kernels, replicated, group, dtype)
            cached_run = make_cached_run(config, kernels, replicated, lora)
            self.cached_embed = self.compile(cached_embed, "embedding")
            self.cached_run = self.compile(cached_run, "blocks with cache", waits=False)
        self.all_rows, self.own_rows = self._row_exchange(mesh) if mesh.topology.sequence else (identity, identity)

    def _compile_forwards(self, forwards: dict[str, Function]) -> dict[str, CompiledFunction]:
        """A block's forward by train.recompute. On the CPU one for all: there the saved arrays exist anyway."""
        if self.device == "cpu":
            return dict.fromkeys(forwards, self.compile(forwards["none"], "block forward"))
        return {recompute: self.compile(forward, "block forward") for recompute, forward in forwards.items()}

    def _compile_decoding(self, functions: "FusedDecoding") -> "FusedDecoding":
        names = {"embed": "embedding", "run": "blocks with cache", "logits": "logits"}
        compiled = {name: self.compile(part, names[name.partition("_")[0]]) for name, part in vars(functions).items()}
        return replace(functions, **compiled)

    def _row_exchange(self, mesh: Mesh) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """all_rows [N / t, H] -> [N, H] and own_rows [N, H] -> [N / t, H], between the last block and the head."""
        gather, rank, count = mesh.tp_group.all_gather, mesh.tp_group.rank, mesh.tp_group.size
        cut = ops.Slice()

        def all_rows(x):
            return gather(x)

        def own_rows(x):
            rows = x.shape[0] // count
            return cut(x, (rank * rows, 0), (rows, x.shape[1]))

        return self.compile(all_rows, "all rows"), self.compile(own_rows, "own rows")

    def compile(self, function: Callable[..., Any], name: str, *, waits: bool = True) -> CompiledFunction:
        """Compile a further function, such as the optimizer's, announced and timed like the model's own.

        Args:
            waits: block each call until its result is computed, on the CPU.
        """
        # On the CPU, preparing a call while the previous one computes takes a core from it: at 512 tokens a block's
        # backward took 200 ms instead of 75. Decoding is bound by memory; there waiting costs more than it saves.
        self._all.append(CompiledFunction(function, name, self._announce, waits=waits and self.device == "cpu"))
        return self._all[-1]

    @property
    def compile_seconds(self) -> float:
        """Total over all functions of the time spent in calls that compiled."""
        return sum(function.compile_seconds for function in self._all)
