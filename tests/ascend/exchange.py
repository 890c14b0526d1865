"""One of two ranks that test_dryrun.py starts: runs small asynchronous collectives and writes their results to a file.

Arguments: folder of the result file, and number of kernels to launch while the last collective runs.
"""

import json
from pathlib import Path
from sys import argv
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import mint, ops
from mindspore.mint import distributed


def tensor(*values: float, dtype: ms.Type = ms.float32) -> Any:
    return ms.Tensor(np.array(values), dtype).move_to("Ascend")


def main(folder: Path, overlapped: int) -> None:
    ms.set_device("Ascend")
    distributed.init_process_group()
    rank = distributed.get_rank()
    found: dict[str, Any] = {}

    def note(name: str, handle: Any, result: Any) -> None:
        handle.wait()
        found[name] = result.asnumpy().tolist()

    for dtype in (ms.float32, ms.int32):
        x = tensor(rank + 1, 10 * (rank + 1), dtype=dtype)
        note(f"sum {dtype}", distributed.all_reduce(x, async_op=True), x)
    x = tensor(rank, -rank)
    note("max", distributed.all_reduce(x, op=ops.ReduceOp.MAX, async_op=True), x)
    gathered = mint.zeros((4,), dtype=ms.float32)
    note("gathered", distributed.all_gather_into_tensor(gathered, tensor(rank, rank + 5), async_op=True), gathered)
    part = mint.zeros((2,), dtype=ms.float32)
    note("part", distributed.reduce_scatter_tensor(part, tensor(1, 2, 3, 4), async_op=True), part)
    x = tensor(rank + 7)
    note("broadcast", distributed.broadcast(x, src=1, async_op=True), x)
    distributed.barrier()
    x = tensor(1.0)
    handle = distributed.all_reduce(x, op=ops.ReduceOp.MIN, async_op=True)
    for _ in range(overlapped):
        mint.add(gathered, 1.0)
    note("min", handle, x)
    found["computed"] = mint.add(tensor(1.0), tensor(2.0)).asnumpy().tolist()
    (folder / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(argv[1]), int(argv[2]))
