"""Which rank this process is, among how many."""

from dataclasses import dataclass

from dscoder_exp.schema.config import ParallelConfig


@dataclass(frozen=True)
class Topology:
    """This process's place: `rank` of `ranks`, all of them replicas of the model."""

    rank: int
    ranks: int


def join(parallel: ParallelConfig) -> Topology:
    """Meet the job's other processes. Comes after the device was chosen; msrun has set the addresses."""
    if parallel.ranks == 1:
        return Topology(0, 1)
    from mindspore.communication import get_group_size, get_rank, init

    init()
    return Topology(get_rank(), get_group_size())
