"""Starting MindSpore on the device that a run asks for."""

import os
from pathlib import Path

TARGETS = {"cpu": "CPU", "ascend": "Ascend"}
DISPATCHER = "frontend_queue"  # MindSpore's thread that hands calls over to those that compute
LOWEST = 19  # priority, as nice(1) has it


def set_environment(threads: int | None = None, ranks: int = 1) -> None:
    """What MindSpore reads when it is imported, and glibc when a process starts; what the user has set stays.

    Args:
        threads: CPU threads that a matrix product uses; None: the cores, shared out over the ranks.
        ranks: processes on this machine.
    """
    os.environ.setdefault("GLOG_v", "3")  # errors only: its warnings say nothing to a user
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # arrays in large pages: training is 8% faster
    if threads is None and ranks > 1:
        threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def start_device(device: str) -> None:
    """Point MindSpore at "cpu" or "ascend".

    Its compile cache stays off. Entries are found by their number in the order of compilation, whatever was compiled:
    a run that compiles in another order gets another function's graph, and wrong numbers without a word.
    """
    import mindspore as ms

    ms.set_context(mode=ms.PYNATIVE_MODE, device_target=TARGETS[device])


def host_threads() -> int:
    """CPU threads that this process computes with, as MindSpore's matrix products do."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list has one number a nesting level
    return int(asked) if asked.isdecimal() and int(asked) else len(os.sched_getaffinity(0))


def calm_dispatcher() -> None:
    """Let MindSpore's dispatching thread have only what those that compute leave of the CPU.

    It spins while it waits for them (2.10.0), which takes up to a third of two cores from them. Beside another program
    that keeps all cores busy it gets little; workers have a session of their own, and Linux shares out the CPU over
    sessions first (sched_autogroup_enabled).
    """
    for thread in Path("/proc/self/task").iterdir():
        if (thread / "comm").read_text().strip() == DISPATCHER:
            os.setpriority(os.PRIO_PROCESS, int(thread.name), LOWEST)
