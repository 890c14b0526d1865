"""The loss over the held-out sequences."""

import math
from collections.abc import Callable

from dscoder_exp.data.loader import SequenceDataset, eval_batches
from dscoder_exp.model.llama import Llama
from dscoder_exp.parallel.collectives import Mesh


class Evaluator:
    """Measures the same sequences each time, each counted once over all ranks."""

    def __init__(self, sequences: SequenceDataset, mesh: Mesh, *, batch_size: int, limit: int | None) -> None:
        """
        Args:
            limit: only the first so many sequences; None: all.
        """
        self._sequences, self._mesh = sequences, mesh
        self._batch_size, self._limit = batch_size, limit

    @property
    def batches(self) -> int:
        """Batches that each data rank takes."""
        count = min(len(self._sequences), self._limit or len(self._sequences))
        return math.ceil(count / (self._batch_size * self._mesh.topology.data))

    def __call__(self, model: Llama, on_batch: Callable[[], None] = lambda: None) -> float:
        """Mean negative log-likelihood of the counted tokens, nats."""
        topology, loss, tokens = self._mesh.topology, 0.0, 0
        rank, ranks = topology.data_rank, topology.data
        for batch in eval_batches(self._sequences, self._batch_size, rank=rank, ranks=ranks, limit=self._limit):
            loss += model.loss_sum(model.inputs(batch.ids, batch.positions, batch.documents, batch.labels))
            tokens += batch.loss_tokens
            on_batch()
        own = loss if topology.tensor_rank == 0 else 0.0, tokens if topology.counts else 0
        loss, counted = self._mesh.sums(*own)
        return loss / counted
