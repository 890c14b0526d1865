"""Starting MindSpore on the device that a run asks for."""

import os

TARGETS = {"cpu": "CPU", "ascend": "Ascend"}


def set_environment(threads: int | None = None, ranks: int = 1) -> None:
    """What MindSpore reads when it is imported, and glibc when a process starts; what the user has set stays.

    Args:
        threads: CPU threads that a matrix product uses; None: the cores, shared out over the ranks.
        ranks: processes on this machine.
    """
    os.environ.setdefault("GLOG_v", "3")  # errors only: its warnings say nothing to a user
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # arrays in large pages: training is 8% faster
    # Seconds that NPUs wait for each other: one rank may read its weights much longer than another. Here, where the
    # workers' environment begins: MindSpore sets 600 as soon as msrun imports it.
    os.environ.setdefault("HCCL_CONNECT_TIMEOUT", "1800")
    if threads is None and ranks > 1:
        threads = max(1, min(_cores(), _cores(os.getppid()) // ranks))  # a rank that is bound has its share already
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def _cores(process: int = 0) -> int:
    """That a process may run on; 0: this one."""
    return len(os.sched_getaffinity(process))


def start_device(device: str, *, jit_level: str = "O0", deterministic: bool = False) -> None:
    """Point MindSpore at "cpu" or "ascend". Comes before ranks meet: HCCL reads whether it is to be deterministic then.

    Its compile cache stays off. Entries are found by their number in the order of compilation, whatever was compiled:
    a run that compiles in another order gets another function's graph, and wrong numbers without a word.

    Args:
        jit_level: "O0", or "O1", which fuses operators; of functions that are compiled from now on.
        deterministic: the same numbers in every run; a CPU gives them anyway.
    """
    import mindspore as ms

    ms.set_context(mode=ms.PYNATIVE_MODE, device_target=TARGETS[device], jit_config={"jit_level": jit_level})
    if deterministic and device == "ascend":
        ms.set_deterministic(True)
