"""Ranks that run MindSpore's AllReduce over rank + 1, or hang in it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import hydra
from hydra.core.config_store import ConfigStore


@dataclass
class Config:
    hang: bool = False  # only rank 0 enters the collective
    started: Optional[str] = None  # file that rank 0 creates just before the collective
    defaults: list[Any] = field(default_factory=lambda: ["_self_", {"override hydra/launcher": "msrun"}])
    hydra: Any = field(
        default_factory=lambda: {
            "mode": "MULTIRUN",
            "sweep": {"dir": "out", "subdir": "${hydra.job.num}"},
            "launcher": {"worker_num": 2, "grace": 1.0},
        }
    )


ConfigStore.instance().store("config", node=Config)


@hydra.main(version_base="1.3", config_path=None, config_name="config")
def main(config: Config) -> float:
    import mindspore as ms
    from mindspore import communication, ops

    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    communication.init()
    rank, size = communication.get_rank(), communication.get_group_size()
    if config.started is not None and rank == 0:
        Path(config.started).touch()
    if config.hang and rank != 0:
        import threading

        threading.Event().wait(120)
    summed: Any = ops.AllReduce()(ms.Tensor([rank + 1.0], ms.float32))
    total = float(summed.asnumpy()[0])
    print(f"rank {rank} of {size}: total {total}")
    if rank == 0:
        Path("total.txt").write_text(f"{total} {size}")
    return total


if __name__ == "__main__":
    main()
