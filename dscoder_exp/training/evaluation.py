"""The loss over the held-out sequences."""

import math
from collections.abc import Callable

from dscoder_exp.data.batches import Sequences, eval_batches
from dscoder_exp.model.llama import Llama
from dscoder_exp.parallel.collectives import Sums
from dscoder_exp.parallel.topology import Topology


class Evaluator:
    """Measures the same sequences each time, each counted once over all ranks."""

    def __init__(self, sequences: Sequences, topology: Topology, *, batch_size: int, limit: int | None) -> None:
        """
        Args:
            limit: only the first so many sequences; None: all.
        """
        self._sequences, self._topology = sequences, topology
        self._batch_size, self._limit = batch_size, limit
        self._sums = Sums(topology)

    @property
    def batches(self) -> int:
        """Batches that each rank takes."""
        count = min(len(self._sequences), self._limit or len(self._sequences))
        return math.ceil(count / (self._batch_size * self._topology.ranks))

    def __call__(self, model: Llama, on_batch: Callable[[], None] = lambda: None) -> float:
        """Mean negative log-likelihood of the counted tokens, nats."""
        rank, ranks = self._topology.rank, self._topology.ranks
        loss, tokens = 0.0, 0
        for batch in eval_batches(self._sequences, self._batch_size, rank=rank, ranks=ranks, limit=self._limit):
            loss += model.loss_sum(model.inputs(batch.ids, batch.positions, batch.documents), batch.labels)
            tokens += batch.loss_tokens
            on_batch()
        loss, counted = self._sums.numbers(loss, tokens)
        return loss / counted
