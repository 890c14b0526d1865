"""ZeRO-1 (Rajbhandari et al. 2019, arXiv:1910.02054): each replica owns a slice of every group of trained tensors.

Its gradient is summed into slices, the optimizer works on a rank's own, and all of them are gathered into the weights.
The slices are fp32; the weights that all replicas have are held in what the model is computed in (as in DeepSpeed's
ZeRO), so that in bf16 they take 2 bytes a parameter, and that is what is gathered.
Beside replicas, tensor ranks that hold the same of a tensor add up what each has of its gradient.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ops
from numpy.typing import NDArray

from dscoder_exp.model.llama import Llama
from dscoder_exp.parallel.collectives import Collectives, Mesh
from dscoder_exp.parallel.pieces import Piece, pieces_of, slice_length
from dscoder_exp.training.moments import Owned
from dscoder_exp.weights.layout import held
from dscoder_exp.weights.names import NORM

_slice = ops.Slice()
_assign = ops.Assign()


@dataclass(frozen=True)
class _Group:
    """One of the model's trained groups, as this rank holds it.

    Attributes:
        copies: tensor ranks that hold the same of each tensor.
        partial: the copies' gradients are to be added up: of so many ranks, 1 where there is nothing to add.
        pieces: that this rank owns.
        length: of a rank's slice.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    copies: tuple[int, ...]
    partial: tuple[int, ...]
    pieces: tuple[Piece, ...]
    length: int

    @property
    def kind(self) -> tuple[Any, ...]:
        """Groups of one kind share their compiled units."""
        return self.shapes, self.partial


class Zero:
    """A model's slices.

    Attributes:
        weights: this rank's pieces of each group, fp32 and flat; alone, the weights themselves.
        owned: what they are of which tensors.
        counted: whether this rank is the one, of those that hold the same, that counts the piece.
        matrices: whether they belong to a matrix.
    """

    def __init__(self, model: Llama) -> None:
        assert all(tensor.dtype == ms.float32 for tensor in chain(*model.trained)), "a frozen model is not trained"
        self._model, mesh = model, model.mesh
        self._alone = mesh.replicas.size == 1
        self._groups = [_group(model, number) for number in range(len(model.trained))]
        self.owned = [[Owned(group.names[p.number], p.first, p.last) for p in group.pieces] for group in self._groups]
        place = mesh.place.tensor_rank
        self.counted = [[place % group.copies[p.number] == 0 for p in group.pieces] for group in self._groups]
        self.matrices = [[len(group.shapes[p.number]) > 1 for p in group.pieces] for group in self._groups]
        self.weights = model.trained if self._alone else [self._cut(number) for number in range(len(self._groups))]
        if not self._alone and model.lora is None:
            model.narrow()
        self._units: dict[tuple[Any, ...], _Units] = {}
        for group in self._groups:
            if group.kind not in self._units:
                self._units[group.kind] = _units(model, group, alone=self._alone)

    def scatter(self, number: int, gradients: Sequence[ms.Tensor]) -> list[ms.Tensor]:
        """This rank's pieces of the sum of a group's gradients over replicas.

        To be called as soon as the group's gradient is whole: on Ascend the call returns at once, and the sum is made
        while the next block's backward computes; on the CPU it returns when the sum is there.
        """
        scatter = self._units[self._groups[number].kind].scatter
        return list(gradients) if scatter is None else list(scatter(*gradients)[1:])

    def gather(self) -> None:
        """Write all ranks' pieces into the model's weights."""
        for group, pieces, weights in zip(self._groups, self.weights, self._model.trained, strict=True):
            if (gather := self._units[group.kind].gather) is not None:
                gather(*pieces, *weights)

    def state(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """(name, array) of this rank's part of all that is trained, in fp32, as the model's `state`.

        All replicas take part, and the first one gets it.
        """
        first = self._model.mesh.place.replica == 0
        if self._model.trained[0][0].dtype == ms.float32:  # it is in the weights
            if first:
                yield from self._model.state()
            return
        for group, pieces in zip(self._groups, self.weights, strict=True):
            every = self._units[group.kind].whole(*pieces)
            if first:
                *parts, _ = np.split(every.asnumpy(), np.cumsum(group.sizes))
                yield from zip(group.names, map(np.reshape, parts, group.shapes), strict=True)

    def not_finite(self, gradients: Sequence[Sequence[ms.Tensor]]) -> list[str]:
        """Names of the tensors in whose gradients, this rank's pieces, there is NaN or infinity on any rank."""
        names = [name for group in self._groups for name in group.names]
        found = dict.fromkeys(names, 0)
        for owned, piece in zip(chain(*self.owned), chain(*gradients), strict=True):
            found[owned.name] = int(not np.isfinite(piece.asnumpy()).all())
        return [name for name, ranks in zip(names, self._model.mesh.sums(*found.values()), strict=True) if ranks]

    def _cut(self, number: int) -> list[ms.Tensor]:
        flat = [tensor.asnumpy().reshape(-1) for tensor in self._model.trained[number]]
        pieces = self._groups[number].pieces
        return [ms.Tensor.from_numpy(flat[p.number][p.first : p.last].copy()) for p in pieces]


def _group(model: Llama, number: int) -> _Group:
    names, tensors, place = model.trained_names[number], model.trained[number], model.mesh.place
    shapes = model.trained_shapes
    parts = [held(name, shapes[name], model.config, place.tensor_rank, place.tensor) for name in names]
    copies = tuple(part.copies for part in parts)
    sizes, replicas = tuple(tensor.size for tensor in tensors), model.mesh.replicas
    return _Group(
        names=tuple(names),
        shapes=tuple(tensor.shape for tensor in tensors),
        sizes=sizes,
        copies=copies,
        partial=tuple(count if _is_partial(name, model.mesh) else 1 for name, count in zip(names, copies, strict=True)),
        pieces=tuple(pieces_of(sizes, replicas.place, replicas.size)),
        length=slice_length(sizes, replicas.size),
    )


def _is_partial(name: str, mesh: Mesh) -> bool:
    """Whether ranks that hold the same of a tensor each have a part of its gradient, and not all of it."""
    if name == NORM:
        return False  # its rows lie on all
    return mesh.place.sequence or not name.endswith("layernorm.weight")


@dataclass(frozen=True)
class _Units:
    """Those of a kind of groups; None: there is nothing to do.

    Attributes:
        scatter: (whole gradients) -> an array, followed by this rank's pieces of their sum.
        gather: (pieces, weights): writes all ranks' pieces into the weights.
        whole: (pieces) -> all ranks' pieces, end to end, in fp32.
    """

    scatter: Any = None
    gather: Any = None
    whole: Any = None


def _units(model: Llama, group: _Group, *, alone: bool) -> _Units:
    unit, summed, replicas = model.units.unit, _summed(model.mesh, group), model.mesh.replicas
    if not alone:
        scatter, gather, whole = _make_scatter(group, replicas, summed), *_make_gathers(group, replicas)
        return _Units(
            unit(scatter, "gradients of replicas"),
            unit(gather, "weights of replicas"),
            unit(whole, "weights to save"),
        )
    if all(count == 1 for count in group.partial):
        return _Units()

    def add(*gradients):
        """Its first output stands for the slice, which replicas have."""
        return (gradients[0], *[summed(gradients[i], i) for i in range(len(gradients))])

    return _Units(unit(add, "gradients of copies"))


def _make_scatter(group: _Group, replicas: Collectives, summed: Any):
    pieces = tuple((piece.number, piece.size) for piece in group.pieces)
    filler, reduce_scatter = group.length * replicas.size - sum(group.sizes), replicas.reduce_scatter

    def scatter(*gradients):
        """The first output is this rank's slice."""
        own = reduce_scatter(_flat(gradients, filler))
        found, start = [], 0
        for number, size in pieces:
            found.append(summed(_slice(own, (start,), (size,)), number))
            start += size
        return (own, *found)

    return scatter


def _make_gathers(group: _Group, replicas: Collectives):
    shapes, sizes, count, all_gather = group.shapes, group.sizes, len(group.pieces), replicas.all_gather
    filler = group.length - sum(piece.size for piece in group.pieces)

    def gather(*pieces_and_weights):
        own = ops.cast(_flat(pieces_and_weights[:count], filler), pieces_and_weights[count].dtype)
        every, start = all_gather(own), 0
        for i in range(len(shapes)):
            _assign(pieces_and_weights[count + i], _slice(every, (start,), (sizes[i],)).reshape(shapes[i]))
            start += sizes[i]
        return every

    def whole(*pieces):
        return all_gather(_flat(pieces, filler))

    return gather, whole


def _flat(tensors, filler):
    """Tensors end to end, and so many zeros."""
    rows = [tensor.reshape(-1) for tensor in tensors]
    if filler > 0:
        rows.append(ops.zeros((filler,), ms.float32))
    return ops.concat(rows) if len(rows) > 1 else rows[0]


def _summed(mesh: Mesh, group: _Group) -> Any:
    """(x, its tensor's number) -> the sum over the copies whose gradients are partial."""
    counts = group.partial
    ways = mesh.place.tensor
    few = next((count for count in counts if 1 < count < ways), 1)
    add_all, add_few = mesh.tensor.all_reduce, mesh.copies(few).all_reduce

    def summed(x, number):
        if counts[number] == 1:
            return x
        if counts[number] == ways:
            return add_all(x)
        return add_few(x)

    return summed
