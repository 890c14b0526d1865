"""Runs at the start of each Python process of a dry run: records MindSpore's memory pool at the process's end."""

import atexit
import ctypes
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

FIGURES = ("max_memory_allocated", "max_memory_reserved")


def note_pool() -> None:
    stand_ins = ctypes.CDLL("libascendcl.so")
    if not stand_ins.dryrun_used():
        return
    for name in FIGURES:
        found = getattr(sys.modules["mindspore"].runtime, name)()
        stand_ins.dryrun_note(name.encode(), ctypes.c_double(found))


class AfterMindSpore(MetaPathFinder):
    """Registers `note_pool` after MindSpore's import, so that it runs before MindSpore's own exit handler."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "mindspore":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                atexit.register(note_pool)

            loader: Any = spec.loader
            loader.exec_module = run_and_register
        return spec


sys.meta_path.insert(0, AfterMindSpore())
