"""The model: its weights on the device, and a pass through its compiled functions."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import mindspore as ms
import numpy as np
from mindspore import mint
from numpy.typing import NDArray

from dscoder_exp.device.memory import fetch, put, put_all
from dscoder_exp.model.compiled import DTYPES, Announce, CompiledFunctions
from dscoder_exp.model.masters import MasterWeights
from dscoder_exp.model.rotary import Rotary
from dscoder_exp.parallel.collectives import ALONE, Mesh
from dscoder_exp.schema.llama import IGNORE_INDEX, LlamaConfig
from dscoder_exp.weights.lora.adapter import BASE_PROBE, Factors, sha256_of
from dscoder_exp.weights.names import EMBEDDING, HEAD, NORM, block_name, block_shapes, factor_shapes, parameter_shapes
from dscoder_exp.weights.native.layout import rank_config, rank_slice


@dataclass(frozen=True)
class Chunk:
    """Rows that the loss takes at a time: int32 [C] each. counts: 1, or 0 for a row that only fills the chunk up."""

    rows: ms.Tensor
    labels: ms.Tensor
    counts: ms.Tensor


@dataclass(frozen=True)
class ModelInputs:
    """A batch on the device: ids and positions [B, T] of this rank, what attention takes as mask, and what the loss
    counts.
    """

    ids: ms.Tensor
    positions: ms.Tensor
    reach: int  # one more than the largest position
    mask: tuple[ms.Tensor, ...]
    chunks: list[Chunk]


@dataclass(frozen=True)
class Stream:
    """The residual stream x [N, H], or this rank's rows of it, and the rotary tables cos and sin [B, T, 1, d]."""

    x: ms.Tensor
    cos: ms.Tensor
    sin: ms.Tensor


class Llama:
    """Weights in groups: the embedding, one group a block, and the final norm (with the head, where it isn't tied).

    Attributes:
        config: the whole model's shape.
        rank_config: of this rank's part of it, which is all that it holds.
        mesh: the ranks that it is shared with.
        groups: the weights' tensors; fp32 or `precision`, see MasterWeights.
        names: Hugging Face's names, in the same groups.
        lora: the shape of LoRA's factors; None where the weights themselves are trained, or nothing is.
        base_sha256: of BASE_PROBE, the weight that identifies the base model of an adapter.
        masters: fp32 values of what is trained.
        trained_names: names of what is trained, grouped like `groups`, or with one group of factors a block.
    """

    def __init__(
        self,
        config: LlamaConfig,
        weights: Iterable[tuple[str, NDArray[np.float32]]],
        *,
        device: str,
        precision: str,
        factors: Factors | None = None,
        frozen: bool = False,
        mesh: Mesh = ALONE,
        announce: Announce = lambda name: None,
    ) -> None:
        """
        Args:
            weights: (name, array) of every tensor of `config`, in any order. The arrays become the model's own; of one
                that is shared out among tensor ranks it keeps this rank's part.
            device: "cpu" or "ascend".
            precision: "fp32", "bf16" or "fp16", of the activations and what is multiplied with them.
            factors: LoRA's; their arrays, too.
            frozen: nobody writes to the weights. They are held in `precision` then, and so they are beside factors.
            announce: called with a function's name before it is compiled.
        """
        self.config, self.precision, self.lora, self.mesh = config, precision, factors and factors.lora, mesh
        topology, dtype = mesh.topology, DTYPES[precision]
        self.rank_config = rank_config(config, topology.tensor)
        self.compiled = CompiledFunctions(self.rank_config, self.lora, mesh, device, precision, announce)
        self.rotary = Rotary(config)
        suffixes = list(block_shapes(config))
        blocks = [[block_name(layer, suffix) for suffix in suffixes] for layer in range(config.num_hidden_layers)]
        self.names = [[EMBEDDING], *blocks, [NORM] if config.tie_word_embeddings else [NORM, HEAD]]
        self.trained_names = [] if frozen else self.names
        if factors is not None:
            self.trained_names = [list(factor_shapes(config, factors.lora, [layer])) for layer in range(len(blocks))]
        self.masters = MasterWeights(
            self.trained_names,
            self.trained_shapes,
            config,
            mesh,
            factors=factors is not None,
            device=device,
            dtype=dtype if factors is None else ms.float32,
        )

        def part_of(name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
            return rank_slice(name, array.shape, config, topology.tensor_rank, topology.tensor).take(array)

        tensors, self.base_sha256 = {}, ""
        for name, array in weights:
            if frozen or factors is not None:
                tensor = put(part_of(name, array))
                tensors[name] = tensor if tensor.dtype == dtype else tensor.astype(dtype)
            else:
                self.masters.load(name, part_of(name, array))
            if name == BASE_PROBE and factors is not None:
                self.base_sha256 = sha256_of(array)
        for name, array in factors.arrays.items() if factors else ():
            self.masters.load(name, part_of(name, array))
        tensors |= self.masters.weights()
        self.groups = [[tensors[name] for name in group] for group in self.names]
        added = [[tensors[name] for name in group] for group in self.trained_names] if factors else [[]] * len(blocks)
        self._blocks = [[*weights, *more] for weights, more in zip(self.groups[1:-1], added, strict=True)]

    @property
    def num_blocks(self) -> int:
        return len(self._blocks)

    def block(self, layer: int) -> list[ms.Tensor]:
        """A block's tensors, as block.py takes them: its weights, then LoRA's factors."""
        self.masters.wait_group(layer if self.lora else 1 + layer)
        return self._blocks[layer]

    @property
    def embedding(self) -> ms.Tensor:
        if self.lora is None:
            self.masters.wait_group(0)
        return self.groups[0][0]

    @property
    def norm(self) -> ms.Tensor:
        if self.lora is None:
            self.masters.wait_group(-1)
        return self.groups[-1][0]

    @property
    def head(self) -> ms.Tensor:
        """[V, H]; a tied model's is its embedding."""
        return self.embedding if self.config.tie_word_embeddings else self.groups[-1][1]

    @cached_property
    def trained_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of all that is trained, whole."""
        return parameter_shapes(self.config) if self.lora is None else factor_shapes(self.config, self.lora)

    def whole_state(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """(name, fp32 array) of all that is trained, whole. All ranks take part; the first replica's ranks get it."""
        topology = self.mesh.topology
        if topology.tensor == 1:
            yield from self.masters.state()
            return
        for name, own in self.masters.state():
            whole = np.empty(self.trained_shapes[name], np.float32)
            for rank, part in enumerate(self.mesh.gathered(own.reshape(-1))):
                place_in = whole[rank_slice(name, whole.shape, self.config, rank, topology.tensor).slices]
                place_in[...] = part.reshape(place_in.shape)
            yield name, whole

    def inputs(
        self,
        ids: NDArray[np.int32],
        positions: NDArray[np.int32],
        documents: NDArray[np.int32],
        labels: NDArray[np.int32] | None = None,
    ) -> ModelInputs:
        """A batch on the device; all [B, T]. Attention stays within one document number.

        Where ranks share the positions, N and T of what blocks take are this rank's.

        Args:
            labels: each position's target, or -100; None: no loss is asked for.
        """
        topology = self.mesh.topology
        mask = self.compiled.attention_mask(documents, topology.context_rank, topology.context)
        counted = [] if labels is None else list(chunks_of(self.own_positions(labels)))
        own = (self.own_positions(values) for values in (ids, positions))
        ids_there, positions_there, *rest = put_all(*own, *(array for chunk in counted for array in chunk))
        chunks = [Chunk(*rest[first : first + 3]) for first in range(0, len(rest), 3)]
        return ModelInputs(ids_there, positions_there, int(positions.max()) + 1, mask, chunks)

    def own_positions(self, values: NDArray[np.int32]) -> NDArray[np.int32]:
        """This context rank's part of [B, T]."""
        topology = self.mesh.topology
        length = values.shape[1] // topology.context
        return np.ascontiguousarray(values[:, topology.context_rank * length : (topology.context_rank + 1) * length])

    def enter(self, inputs: ModelInputs) -> Stream:
        """The batch as the first block takes it."""
        tables = self.rotary.tables(inputs.reach)
        return Stream(*self.compiled.embed(inputs.ids, inputs.positions, self.embedding, *tables))

    def hidden(self, inputs: ModelInputs) -> ms.Tensor:
        """The last block's output [N, H], whole on each tensor rank."""
        stream, forward = self.enter(inputs), self.compiled.forward["full"]
        x = stream.x
        for layer in range(self.num_blocks):
            x = forward(x, stream.cos, stream.sin, *inputs.mask, *self.block(layer))[0]
        return self.compiled.all_rows(x)

    def loss_sum(self, inputs: ModelInputs) -> float:
        """Summed -log p (nats) of the labels that count.

        Where ranks share the positions, the sum over this rank's.
        """
        if not inputs.chunks and self.mesh.topology.context == 1:
            return 0.0
        x, total = self.hidden(inputs), mint.zeros((1,), dtype=ms.float32)
        for c in inputs.chunks:
            self.compiled.loss(x, c.rows, c.labels, c.counts, self.norm, self.head, total)
        return float(fetch(total)[0])

    def logits(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """[N, V], all at once."""
        return fetch(self.compiled.logits(self.hidden(inputs), self.norm, self.head))


def chunks_of(labels: NDArray[np.int32]) -> Iterator[tuple[NDArray[np.int32], ...]]:
    """The positions that count, in chunks of one shape, which depends on the batch's shape alone: rows, labels, counts.

    A chunk is a quarter of the batch, at least 256 rows where there are as many (a row of 128 takes half as long again)
    and at most 1,024 (fp32 logits and probabilities of 102,400 entries: 0.8 GB).
    """
    labels = labels.reshape(-1)
    size = min(max(len(labels) // 4, min(len(labels), 256), 128), 1024)
    counted = np.flatnonzero(labels != IGNORE_INDEX).astype(np.int32)
    for first in range(0, len(counted), size):
        rows = counted[first : first + size]
        arrays = rows, labels[rows], np.ones(len(rows), np.int32)
        yield tuple(np.pad(array, (0, size - len(rows))) for array in arrays)
