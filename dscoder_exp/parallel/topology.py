"""Which rank this process is, among how many, and whom it shares what with. Never imports mindspore."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topology:
    """This process's place. Ranks are numbered tensor first, then context, then data, so that neighbours talk most.

    Attributes:
        data: parts that a batch is shared out in.
        tensor: ranks that share a model's matrices.
        context: ranks that share the positions of a sequence.
        sequence: whether tensor ranks share out the rows of norms and residuals, too.
    """

    rank: int
    data: int = 1
    tensor: int = 1
    context: int = 1
    sequence: bool = False

    @property
    def ranks(self) -> int:
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
        """Ranks that hold the same weights, and compute gradients of different positions."""
        return self.data * self.context

    @property
    def replica(self) -> int:
        """This rank's number among its replicas."""
        return self.rank // self.tensor

    @property
    def counts(self) -> bool:
        """Whether this rank is the one that counts a batch, of those that share it."""
        return self.rank % (self.tensor * self.context) == 0

    def tp_ranks(self, ranks: int | None = None) -> range:
        """The ranks that share a replica's matrices; or of these the `ranks` neighbours that hold the same of one."""
        ranks = ranks or self.tensor
        first = self.rank - self.tensor_rank % ranks
        return range(first, first + ranks)

    def cp_ranks(self) -> range:
        first = self.rank - self.context_rank * self.tensor
        return range(first, first + self.context * self.tensor, self.tensor)

    def replica_ranks(self) -> range:
        """The replicas."""
        return range(self.tensor_rank, self.ranks, self.tensor)
