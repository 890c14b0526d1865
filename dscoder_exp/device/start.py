"""Setting up the environment and MindSpore for a device."""

import os
from importlib import import_module
from pathlib import Path

TARGETS = {"cpu": "CPU", "ascend": "Ascend"}
REPORTS_VARIABLE = "MS_OM_PATH"  # MindSpore's: where it writes rank_N/om/analyze_fail.ir


def set_environment(threads: int | None = None, ranks: int = 1, *, reports: Path | None = None) -> None:
    """Set environment variables that MindSpore reads at its import and glibc at process start, unless the user has.

    Args:
        threads: CPU threads per process; None: this machine's cores divided by `ranks`.
        ranks: number of ranks on this machine.
        reports: where MindSpore may write, in rank_N/, what its compilers leave: without this, in the current directory
            (analyze_fail.ir of a function that can't be compiled; on an NPU the intermediate files of operators).
    """
    if os.environ.get("XDG_CACHE_HOME") == "":  # as good as unset (XDG base directory specification)
        del os.environ["XDG_CACHE_HOME"]
    os.environ.setdefault("GLOG_v", "3")  # errors only: MindSpore's warnings are of no use to a user
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # huge pages for arrays: training is 8% faster
    # Seconds that NPUs wait for each other to connect: one rank may take much longer to read its weights than another.
    # It has to be set in the parent, since MindSpore sets 600 as soon as msrun imports it.
    os.environ.setdefault("HCCL_CONNECT_TIMEOUT", "1800")
    if reports is not None:
        for name in (REPORTS_VARIABLE, "MS_COMPILER_CACHE_PATH"):
            os.environ.setdefault(name, str(reports))
    if threads is None and ranks > 1:
        share = _available_cores(os.getppid()) // ranks
        threads = max(1, min(share, _available_cores()))  # a rank that is bound to its cores has its share already
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def _available_cores(process: int = 0) -> int:
    """Number of cores that a process may run on; 0: this process."""
    return len(os.sched_getaffinity(process))


def start_device(device: str, *, jit_level: str = "O0", deterministic: bool = False) -> None:
    """Select MindSpore's device. Call it before the process groups are created: HCCL reads `deterministic` then.

    MindSpore's compile cache stays off: it looks up entries by the order of compilation, whatever was compiled, so a
    run that compiles in another order silently gets another function's graph and computes wrong numbers.

    Args:
        device: "cpu" or "ascend".
        jit_level: of functions compiled from now on: "O0", or "O1", which fuses operators.
        deterministic: compute the same numbers in every run; a CPU always does.
    """
    import mindspore as ms

    if device == "ascend" and (reports := os.environ.get(REPORTS_VARIABLE)) is not None:
        _keep_offload_out_of_here(Path(reports))
    ms.set_context(mode=ms.PYNATIVE_MODE, device_target=TARGETS[device], jit_config={"jit_level": jit_level})
    if deterministic and device == "ascend":
        ms.set_deterministic(True)


def _keep_offload_out_of_here(reports: Path) -> None:
    """Let MindSpore's memory manager make its directory `offload`, which stays empty, there and not in the current one.

    MindSpore 2.10 has no public function or variable for that.
    """
    context = getattr(import_module("mindspore._c_expression"), "OffloadContext", None)
    if context is not None:
        reports.mkdir(parents=True, exist_ok=True)
        context.get_instance().set_offload_path(f"{reports}/offload/")
