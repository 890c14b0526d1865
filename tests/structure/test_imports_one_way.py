"""The house's walls: which package may import which, and where MindSpore may be imported."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "dscoder_exp"
LAUNCHERS = REPOSITORY / "launchers"
FRONT = "front"  # the modules that lie in dscoder_exp itself and have no row below: app, lifecycle, llm

# A row: what a package, or a module that stands alone, may import besides itself. What stands higher imports what
# stands lower, never the reverse.
BASE = {"hub", "storage", "schema"}
SERVICES = {"training", "evaluation", "generation", "model", "data", "weights", "tracking", "comparison"}
MAY_IMPORT = {
    FRONT: {"preflight", "tasks", "console", "signals", *SERVICES, "parallel", "device", *BASE},
    "preflight": {"tasks", *SERVICES, "parallel", "native", *BASE},
    "tasks": {"console", "signals", *SERVICES, "parallel", "native", "device", *BASE},
    "training": {
        "console",
        "signals",
        "evaluation",
        "generation",
        "model",
        "data",
        "weights",
        "tracking",
        "parallel",
        "native",
        "device",
        *BASE,
    },
    "evaluation": {"console", "generation", "data", "weights", "tracking", "parallel", *BASE},
    "generation": {"model", "data", "weights", "parallel", "device", *BASE},
    "model": {"weights", "parallel", "native", "device", *BASE},
    "data": {"weights", "parallel", *BASE},
    "weights": BASE,
    "comparison": {"tracking", *BASE},
    "tracking": {"signals", *BASE},
    "parallel": {"device", *BASE},
    "hub": {"storage", "schema"},
    "storage": {"schema"},
    "console": set(),
    "signals": set(),
    "device": set(),
    "native": set(),
    "schema": set(),
}
NEVER_MINDSPORE = {*BASE, "weights", "tracking", "comparison", "preflight", "native", "evaluation"}
MINDSPORE_IN_FUNCTIONS = {FRONT, "tasks", "data"}
# Packages that may be imported before it is known whether a device is needed, and what of them computes with a model
LIGHT = {*BASE, "weights", "preflight", "comparison", "evaluation"}
HEAVY_MODULES = {"dscoder_exp.evaluation.evaluator"}
LIGHT_MODULES = {
    "dscoder_exp",
    "dscoder_exp.app",
    "dscoder_exp.lifecycle",
    "dscoder_exp.tasks.compare",
    "dscoder_exp.tasks.convert",
    "dscoder_exp.tasks.evaluate",
    "dscoder_exp.tasks.prepare",
}


class Import(NamedTuple):
    where: str  # file:line
    package: str  # the importing file's
    target: str  # dotted
    in_function: bool


def modules(root: Path = PACKAGE) -> list[Path]:
    return sorted(root.rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def package_of(module: str) -> str:
    """The row of a dotted name below dscoder_exp."""
    first = f"{module}..".split(".")[1]
    return first if first in MAY_IMPORT or (first and (PACKAGE / first).is_dir()) else FRONT


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    """Every import in the file, at any depth; a name that is imported from a package counts as a module of it."""

    def walk(node: ast.AST, in_function: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            targets: list[str] = []
            if isinstance(child, ast.Import):
                targets = [name.name for name in child.names]
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: a relative import"
                targets = [f"{child.module}.{name.name}" for name in child.names]
            where = f"{path.relative_to(REPOSITORY)}:{getattr(child, 'lineno', 0)}"
            yield from (Import(where, package_of(dotted(path)), target, in_function) for target in targets)
            yield from walk(child, in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    return tuple(walk(ast.parse(path.read_text(), str(path)), False))


def imports_from(root: str) -> list[Import]:
    """The package's imports out of the distribution `root`."""
    return [found for path in modules() for found in imports_of(path) if found.target.partition(".")[0] == root]


def told(wrong: list[Import]) -> str:
    return "\n".join(f"{found.where}: {found.package} imports {found.target}" for found in wrong)


def test_every_package_has_a_row() -> None:
    packages = {package_of(dotted(path)) for path in modules()}
    assert packages == MAY_IMPORT.keys(), "MAY_IMPORT is to say what each package may import"


def test_the_rows_have_one_direction() -> None:
    *_, last = TopologicalSorter(MAY_IMPORT).static_order()  # raises CycleError where two need each other
    assert last == FRONT


def test_imports_point_one_way() -> None:
    found = imports_from("dscoder_exp")
    assert len(found) > 100
    wrong = [one for one in found if package_of(one.target) not in MAY_IMPORT[one.package] | {one.package}]
    assert not wrong, told(wrong)


def test_the_launcher_knows_nothing_of_the_application() -> None:
    found = [one for path in modules(LAUNCHERS) for one in imports_of(path)]
    assert len(found) > 100
    assert not [one for one in found if one.target.startswith("dscoder_exp")]


def test_nobody_imports_a_private_module() -> None:
    found = [one for path in (*modules(), *modules(LAUNCHERS)) for one in imports_of(path)]
    ours = [one for one in found if one.target.partition(".")[0] in ("dscoder_exp", "msrun_launcher", "hydra_plugins")]
    private = [one for one in ours if any(part[:1] == "_" for part in one.target.split(".")[:-1])]
    assert not private, told(private)


def test_mindspore_is_imported_only_where_it_is_needed() -> None:
    found = imports_from("mindspore")
    assert {"model", "data"} <= {one.package for one in found}
    wrong = [one for one in found if one.package in NEVER_MINDSPORE]
    wrong += [one for one in found if one.package in MINDSPORE_IN_FUNCTIONS and not one.in_function]
    assert not wrong, told(wrong)


IMPORT_EACH = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
    if heavy := {"mindspore", "mlflow"} & set(sys.modules):
        sys.exit(f"{module} brings {heavy}")
"""


def test_what_a_refusal_needs_is_light() -> None:
    light = [dotted(path) for path in modules() if package_of(dotted(path)) in LIGHT] + sorted(LIGHT_MODULES)
    light = [module for module in light if module not in HEAVY_MODULES]
    assert len(light) > 20
    run = subprocess.run([sys.executable, "-c", IMPORT_EACH, *light], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
