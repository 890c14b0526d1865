"""The ranks of a job and the groups that they form. Never imports mindspore."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topology:
    """This process's global rank, and the degree of each kind of parallelism.

    Ranks are numbered tensor first, then context, then data, so that the ranks that exchange most are neighbours.

    Attributes:
        rank: global rank, 0 to ranks - 1.
        data: data-parallel degree: the batch is divided among this many groups.
        tensor: tensor-parallel degree: heads, MLP and vocabulary are divided among this many ranks.
        context: context-parallel degree: the positions of a sequence are divided among this many ranks.
        sequence: Megatron's sequence parallelism: tensor ranks also divide the rows of norms and residuals.
    """

    rank: int
    data: int = 1
    tensor: int = 1
    context: int = 1
    sequence: bool = False

    @property
    def ranks(self) -> int:
        """Number of ranks of the job."""
        return self.data * self.tensor * self.context

    @property
    def tensor_rank(self) -> int:
        return self.rank % self.tensor

    @property
    def context_rank(self) -> int:
        return self.rank // self.tensor % self.context

    @property
    def data_rank(self) -> int:
        return self.rank // (self.tensor * self.context)

    @property
    def replicas(self) -> int:
        """Number of ranks that hold the same weights, and compute gradients of different positions."""
        return self.data * self.context

    @property
    def replica(self) -> int:
        """This rank's index in its replica group."""
        return self.rank // self.tensor

    @property
    def counts_batch(self) -> bool:
        """True on one of the ranks that share a batch: the one that adds its token counts to sums over all ranks."""
        return self.rank % (self.tensor * self.context) == 0

    def tp_ranks(self, ranks: int | None = None) -> range:
        """Global ranks of the tensor-parallel group; or this rank's run of `ranks` neighbours in it."""
        ranks = ranks or self.tensor
        first = self.rank - self.tensor_rank % ranks
        return range(first, first + ranks)

    def cp_ranks(self) -> range:
        """Global ranks of the context-parallel group."""
        first = self.rank - self.context_rank * self.tensor
        return range(first, first + self.context * self.tensor, self.tensor)

    def replica_ranks(self) -> range:
        """Global ranks of the replica group: those with the same tensor rank, which hold the same weights."""
        return range(self.tensor_rank, self.ranks, self.tensor)
