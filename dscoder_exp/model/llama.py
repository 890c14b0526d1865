"""The Llama model: its weights on the device, and the forward pass through its compiled functions."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import mindspore as ms
import numpy as np
from mindspore import mint
from numpy.typing import NDArray

from dscoder_exp.device.memory import fetch, put_all
from dscoder_exp.model.compiled import DTYPES, Announce, CompiledFunctions
from dscoder_exp.model.frozen import FrozenWeights
from dscoder_exp.model.masters import MasterWeights
from dscoder_exp.model.projections import DOWN, INPUT_NORM, POST_ATTENTION_NORM, O
from dscoder_exp.model.rotary import Rotary
from dscoder_exp.parallel.collectives import ALONE, Mesh
from dscoder_exp.schema.llama import IGNORE_INDEX, LlamaConfig
from dscoder_exp.weights.lora.adapter import BASE_PROBE, Factors, sha256_of
from dscoder_exp.weights.names import EMBEDDING, HEAD, NORM, block_name, block_shapes, factor_shapes, parameter_shapes
from dscoder_exp.weights.native.layout import rank_config, rank_slice


@dataclass(frozen=True)
class Chunk:
    """Rows of one call of the loss: int32 [C] each. counts is 1, or 0 for a row that pads the chunk."""

    rows: ms.Tensor
    labels: ms.Tensor
    counts: ms.Tensor


@dataclass(frozen=True)
class ModelInputs:
    """A batch on the device: this context rank's ids and positions [B, T], attention's mask, and the loss's chunks."""

    ids: ms.Tensor
    positions: ms.Tensor
    num_positions: int  # largest position of the batch + 1
    mask: tuple[ms.Tensor, ...]
    chunks: list[Chunk]


@dataclass(frozen=True)
class Stream:
    """The embedded batch: x [N, H], or this rank's rows of it, and the positions' cos and sin [B, T, 1, d]."""

    x: ms.Tensor
    cos: ms.Tensor
    sin: ms.Tensor


class Llama:
    """A Llama model. Its weights form groups: the embedding, each block, and the final norm with an untied head.

    Attributes:
        config: the whole model's shape.
        rank_config: the shape of this tensor-parallel rank's part, the only weights held here.
        precision: dtype of activations and matrix products, "fp32", "bf16" or "fp16".
        mesh: the ranks that hold the model together.
        groups: the weights' tensors; fp32 or `precision`, see MasterWeights.
        names: the weights' Hugging Face names, grouped like `groups`.
        lora: shape of the LoRA factors; None where the weights themselves are trained, or nothing is.
        base_sha256: SHA-256 of the weight BASE_PROBE, which identifies an adapter's base model; "" without LoRA.
        masters: fp32 values of the trained tensors.
        trained_names: names of the trained tensors, grouped like `groups`; with LoRA, the factors in a group per block.
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
            weights: (name, array) of every tensor of `config`, whole, in any order. The model may use the arrays'
                memory, so the caller must not change them. Of a split tensor it keeps this rank's part.
            device: "cpu" or "ascend".
            precision: dtype of activations and matrix products.
            factors: LoRA factors to train instead of the weights; their arrays are used like those of `weights`.
            frozen: train nothing. Frozen weights, here or with LoRA, are held in `precision`.
            announce: called with a function's name before it is compiled.
        """
        self.config, self.precision, self.lora, self.mesh = config, precision, factors and factors.lora, mesh
        topology, dtype = mesh.topology, DTYPES[precision]
        self.rank_config = rank_config(config, topology.tensor)
        merge = frozen and device == "ascend"
        self.compiled = CompiledFunctions(self.rank_config, self.lora, mesh, device, precision, announce, merged=merge)
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

        held, self.base_sha256 = FrozenWeights(self.rank_config, dtype, merge=merge), ""
        for name, array in weights:
            if frozen or factors is not None:
                held.load(name, part_of(name, array))
            else:
                self.masters.load(name, part_of(name, array))
            if name == BASE_PROBE and factors is not None:
                self.base_sha256 = sha256_of(array)
        for name, array in factors.arrays.items() if factors else ():
            self.masters.load(name, part_of(name, array))
        tensors = held.tensors | self.masters.weights()
        self.groups = [[tensors[name] for name in group] for group in self.names]
        lora = [[tensors[name] for name in group] for group in self.trained_names] if factors else [[]] * len(blocks)
        self._blocks = [[*weights, *added] for weights, added in zip(self.groups[1:-1], lora, strict=True)]
        self._merged = held.merged

    @property
    def num_blocks(self) -> int:
        return len(self._blocks)

    def block(self, layer: int) -> list[ms.Tensor]:
        """A block's tensors in block.py's order, weights and then LoRA's factors, once their all-gathers are done."""
        self.masters.wait_group(layer if self.lora else 1 + layer)
        return self._blocks[layer]

    def decoding_block(self, layer: int) -> list[ms.Tensor]:
        """A block's tensors in fused_decoding.py's order: `block`, or merged."""
        tensors = self.block(layer)
        if not self._merged:
            return tensors
        qkv, gate_up = self._merged[layer]
        return [tensors[INPUT_NORM], qkv, tensors[O], tensors[POST_ATTENTION_NORM], gate_up, tensors[DOWN]]

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
        """The head's matrix [V, H]; the embedding where config.tie_word_embeddings."""
        return self.embedding if self.config.tie_word_embeddings else self.groups[-1][1]

    @cached_property
    def trained_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> whole shape of each trained tensor."""
        return parameter_shapes(self.config) if self.lora is None else factor_shapes(self.config, self.lora)

    def whole_state(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield (name, whole fp32 array) of each trained tensor.

        All ranks have to call this; only the first replica's ranks get the arrays.
        """
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
        """Copy a batch to the device. All arrays are [B, T]; positions attend only within the same document number.

        With context parallelism the arrays are whole, and the result has this rank's positions.

        Args:
            labels: each position's target id, or IGNORE_INDEX; None: no loss will be computed.
        """
        topology = self.mesh.topology
        mask = self.compiled.attention_mask(documents, topology.context_rank, topology.context)
        counted = [] if labels is None else list(chunks_of(self.own_positions(labels)))
        own = (self.own_positions(values) for values in (ids, positions))
        ids_on_device, positions_on_device, *rest = put_all(*own, *(array for chunk in counted for array in chunk))
        chunks = [Chunk(*rest[first : first + 3]) for first in range(0, len(rest), 3)]
        return ModelInputs(ids_on_device, positions_on_device, int(positions.max()) + 1, mask, chunks)

    def own_positions(self, values: NDArray[np.int32]) -> NDArray[np.int32]:
        """This context rank's columns of an array [B, T]."""
        topology = self.mesh.topology
        length = values.shape[1] // topology.context
        return np.ascontiguousarray(values[:, topology.context_rank * length : (topology.context_rank + 1) * length])

    def embed(self, inputs: ModelInputs) -> Stream:
        """The first block's inputs."""
        tables = self.rotary.tables(inputs.num_positions)
        return Stream(*self.compiled.embed(inputs.ids, inputs.positions, self.embedding, *tables))

    def hidden(self, inputs: ModelInputs) -> ms.Tensor:
        """The last block's output [N, H], all rows on every tensor rank."""
        stream, forward = self.embed(inputs), self.compiled.forward["full"]
        x = stream.x
        for layer in range(self.num_blocks):
            x = forward(x, stream.cos, stream.sin, *inputs.mask, *self.block(layer))[0]
        return self.compiled.all_rows(x)

    def loss_sum(self, inputs: ModelInputs) -> float:
        """Sum of -log p[label] (nats) over the labels that count, of this context rank's positions."""
        if not inputs.chunks and self.mesh.topology.context == 1:
            return 0.0
        x, total = self.hidden(inputs), mint.zeros((1,), dtype=ms.float32)
        for c in inputs.chunks:
            self.compiled.loss(x, c.rows, c.labels, c.counts, self.norm, self.head, total)
        return float(fetch(total)[0])

    def logits(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """Logits of all positions at once, fp32 [N, whole vocabulary]."""
        return fetch(self.compiled.logits(self.hidden(inputs), self.norm, self.head))


def chunks_of(labels: NDArray[np.int32]) -> Iterator[tuple[NDArray[np.int32], ...]]:
    """Yield (rows, labels, counts) of the rows whose label counts, in chunks of one size.

    The size depends on the batch's shape only, so that other labels don't compile again: a quarter of the batch, at
    least 256 rows where the batch has so many (in chunks of 128 a row takes 1.5 times as long), and at most 1,024 (fp32
    logits and probabilities over 102,400 ids: 0.8 GB). It is never below 128.
    """
    labels = labels.reshape(-1)
    size = min(max(len(labels) // 4, min(len(labels), 256), 128), 1024)
    counted = np.flatnonzero(labels != IGNORE_INDEX).astype(np.int32)
    for first in range(0, len(counted), size):
        rows = counted[first : first + size]
        arrays = rows, labels[rows], np.ones(len(rows), np.int32)
        yield tuple(np.pad(array, (0, size - len(rows))) for array in arrays)
