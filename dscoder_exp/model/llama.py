"""The model: its weights on the device, and how its units make a pass over it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import mindspore as ms
import numpy as np
from numpy.typing import NDArray

from dscoder_exp.model.rotary import rotary_tables
from dscoder_exp.model.units import DTYPES, Announce, Units
from dscoder_exp.parallel.collectives import ALONE, Mesh
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.adapter import TELLING, Factors, sha256_of
from dscoder_exp.weights.layout import held, rank_config
from dscoder_exp.weights.names import EMBEDDING, HEAD, NORM, block_name, block_shapes, expected, factor_shapes

NOT_COUNTED = -100  # the label of a position that the loss leaves out


@dataclass(frozen=True)
class Inputs:
    """What every block of a pass takes, on the device: ids [N], cos and sin [B, T, 1, d], and the attention mask."""

    ids: ms.Tensor
    cos: ms.Tensor
    sin: ms.Tensor
    mask: ms.Tensor


@dataclass(frozen=True)
class Chunk:
    """Rows that the loss takes at a time, each [C]; counts is 1, or 0 for a row that only fills the chunk up."""

    rows: ms.Tensor
    labels: ms.Tensor
    counts: ms.Tensor


class Llama:
    """Weights in groups: the embedding, one group a block, and the final norm (with the head, where it isn't tied).

    Attributes:
        config: the whole model's shape.
        rank_config: of this rank's part of it, which is all that it holds.
        mesh: the ranks that it is shared with.
        groups: tensors in fp32, or in what the model is computed in: see `narrow`.
        names: Hugging Face's names, in the same groups.
        lora: where factors beside the weights are trained instead of them.
        base_sha256: of the weight that tells the base beside which they are trained from others.
        trained, trained_names: the groups that training writes to, in place: the weights', or the blocks' factors.
        blocks: what each block's units take: its weights and factors.
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
            announce: called with the name of a unit before it is compiled.
        """
        self.config, self.precision, self.lora, self.mesh = config, precision, factors and factors.lora, mesh
        place = mesh.place
        self.rank_config = rank_config(config, place.tensor)
        self.units = Units(self.rank_config, self.lora, mesh, device, precision, announce)
        suffixes = list(block_shapes(config))
        blocks = [[block_name(layer, suffix) for suffix in suffixes] for layer in range(config.num_hidden_layers)]
        self.names = [[EMBEDDING], *blocks, [NORM] if config.tie_word_embeddings else [NORM, HEAD]]

        def own(name: str, array: NDArray[np.float32]) -> ms.Tensor:
            part = held(name, array.shape, config, place.tensor_rank, place.tensor)
            return ms.Tensor.from_numpy(part.of(array))

        narrows = frozen or factors is not None
        tensors, self.base_sha256 = {}, ""
        for name, array in weights:
            tensor = own(name, array)
            tensors[name] = self._narrow(tensor) if narrows else tensor
            if name == TELLING and factors is not None:
                self.base_sha256 = sha256_of(array)
        self.groups = [[tensors.pop(name) for name in group] for group in self.names]
        self.trained, self.trained_names, self.blocks = self.groups, self.names, self.groups[1:-1]
        if factors is not None:
            layers = range(config.num_hidden_layers)
            self.trained_names = [list(factor_shapes(config, factors.lora, [layer])) for layer in layers]
            self.trained = [[own(name, factors.arrays[name]) for name in group] for group in self.trained_names]
            self.blocks = [[*weights, *added] for weights, added in zip(self.blocks, self.trained, strict=True)]

    def narrow(self) -> None:
        """Hold the weights in what the model is computed in, from now on: in bf16 and fp16 half the memory.

        To be called before a unit has taken them, by whom keeps the fp32 that training adds to.
        """
        for group in self.groups:
            group[:] = [self._narrow(tensor) for tensor in group]

    def _narrow(self, tensor: ms.Tensor) -> ms.Tensor:
        dtype = DTYPES[self.precision]
        return tensor if tensor.dtype == dtype else tensor.astype(dtype)

    @property
    def embedding(self) -> ms.Tensor:
        return self.groups[0][0]

    @property
    def norm(self) -> ms.Tensor:
        return self.groups[-1][0]

    @property
    def head(self) -> ms.Tensor:
        """[V, H]; a tied model's is its embedding."""
        return self.embedding if self.config.tie_word_embeddings else self.groups[-1][1]

    @cached_property
    def trained_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of all that is trained, whole."""
        return expected(self.config) if self.lora is None else factor_shapes(self.config, self.lora)

    def state(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """(name, array) of this rank's part of all that is trained, fetched one at a time."""
        for names, tensors in zip(self.trained_names, self.trained, strict=True):
            for name, tensor in zip(names, tensors, strict=True):
                yield name, tensor.asnumpy()

    def whole_state(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """`state` of the whole model. All tensor ranks take part, and each gets everything, a group at a time."""
        place = self.mesh.place
        if place.tensor == 1:
            yield from self.state()
            return
        shapes = self.trained_shapes
        for names, tensors in zip(self.trained_names, self.trained, strict=True):
            parts = self.mesh.gathered(np.concatenate([tensor.asnumpy().reshape(-1) for tensor in tensors]))
            ends = np.cumsum([tensor.size for tensor in tensors])[:-1]
            for name, *of_ranks in zip(names, *(np.split(part, ends) for part in parts), strict=True):
                whole = np.empty(shapes[name], np.float32)
                for rank, part in enumerate(of_ranks):
                    place_in = whole[held(name, whole.shape, self.config, rank, place.tensor).slices]
                    place_in[...] = part.reshape(place_in.shape)
                yield name, whole

    def inputs(self, ids: NDArray[np.int32], positions: NDArray[np.int32], documents: NDArray[np.int32]) -> Inputs:
        """A batch on the device; all [B, T]. Attention stays within one document number.

        Where ranks share the positions, N and T of what blocks take are this rank's.
        """
        place = self.mesh.place
        ids, positions = self.own_positions(ids), self.own_positions(positions)
        cos, sin = rotary_tables(self.config, positions)
        heads = self.rank_config.num_attention_heads
        mask = self.units.attention_mask(documents, heads, place.context_rank, place.context)
        return Inputs(ms.Tensor(ids.reshape(-1)), ms.Tensor(cos), ms.Tensor(sin), mask)

    def own_positions(self, values: NDArray[np.int32]) -> NDArray[np.int32]:
        """This context rank's part of [B, T]."""
        place = self.mesh.place
        length = values.shape[1] // place.context
        return np.ascontiguousarray(values[:, place.context_rank * length : (place.context_rank + 1) * length])

    def hidden(self, inputs: Inputs) -> ms.Tensor:
        """What the last block puts out, [N, H], on each of the tensor ranks."""
        x = self.units.embed(inputs.ids, self.embedding)
        for weights in self.blocks:
            x = self.units.forward(x, inputs.cos, inputs.sin, inputs.mask, *weights)[0]
        return self.units.all_rows(x)

    def loss_sum(self, inputs: Inputs, labels: NDArray[np.int32]) -> float:
        """Summed -log p (nats) of the labels that count; labels [B, T] hold each position's target, or -100.

        Where ranks share the positions, the sum over this rank's.
        """
        chunks = list(chunks_of(self.own_positions(labels)))
        if not chunks and self.mesh.place.context == 1:
            return 0.0
        x = self.hidden(inputs)
        losses = [self.units.loss(x, c.rows, c.labels, c.counts, self.norm, self.head) for c in chunks]
        return float(sum(loss.asnumpy() for loss in losses))

    def logits(self, inputs: Inputs) -> NDArray[np.float32]:
        """[N, V], all at once."""
        return self.units.logits(self.hidden(inputs), self.norm, self.head).asnumpy()


def chunks_of(labels: NDArray[np.int32]) -> Iterator[Chunk]:
    """The positions that count, in chunks of one shape, which depends on the batch's shape alone.

    A chunk is a quarter of the batch, at least 256 rows where there are as many (a row of 128 takes half as long again)
    and at most 1,024 (fp32 logits and probabilities of 102,400 entries: 0.8 GB).
    """
    labels = labels.reshape(-1)
    size = min(max(len(labels) // 4, min(len(labels), 256), 128), 1024)
    counted = np.flatnonzero(labels != NOT_COUNTED).astype(np.int32)
    for first in range(0, len(counted), size):
        rows = counted[first : first + size]
        filler = size - len(rows)
        yield Chunk(
            rows=ms.Tensor(np.pad(rows, (0, filler))),
            labels=ms.Tensor(np.pad(labels[rows], (0, filler))),
            counts=ms.Tensor(np.pad(np.ones(len(rows), np.float32), (0, filler))),
        )
