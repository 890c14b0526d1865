"""The problems of a suite of programs: what is asked, and the tests that decide."""

import ast
import warnings
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CodeProblem:
    """A function to be written, and its tests.

    Attributes:
        task_id: as the suite's file has it.
        prompt: HumanEval: the function's beginning, signature and docstring; MBPP: a description.
        entry_point: the function's name.
        tests: Python that is run after the program and raises unless it is right.
        examples: tests that are shown with the request; HumanEval's docstrings have their own.
        reference: a program that passes; None: the file has none.
        continues: the program begins with `prompt`.
    """

    task_id: str | int
    prompt: str
    entry_point: str
    tests: str
    examples: tuple[str, ...] = ()
    reference: str | None = None
    continues: bool = False

    @property
    def key(self) -> str:
        return str(self.task_id)

    @property
    def preamble(self) -> str:
        """What stands before the function in the prompt, imports and helpers, with a line break; else ''."""
        if not self.continues or (start := definition_line(self.prompt, self.entry_point)) is None:
            return ""
        return "".join(f"{line}\n" for line in self.prompt.split("\n")[: start - 1])


def parsed(code: str) -> ast.Module | None:
    """The program's tree; None if it isn't Python. Nothing is run, nor compiled."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in strings
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # a NUL byte; too deep
        return None


def definitions(tree: ast.Module, name: str) -> list[ast.stmt]:
    """The statements at a program's top level that define `name`: functions, classes and assignments."""
    return [node for node in tree.body if name in _defined(node)]


def definitions_in(code: str) -> set[str]:
    """The names that a program defines at its top level, without imported ones."""
    tree = parsed(code)
    return {name for node in tree.body for name in _defined(node)} if tree else set()


def definition_line(code: str, name: str) -> int | None:
    """The line, from 1, where a function's last definition begins, with its decorators; None: there is none."""
    tree = parsed(code)
    found = definitions(tree, name) if tree else []
    if not found:
        return None
    return min([found[-1].lineno, *(node.lineno for node in getattr(found[-1], "decorator_list", ()))])


def called_names(code: str) -> list[str]:
    """The names that are called in a program, in order."""
    tree = parsed(code)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)] if tree else []
    return [call.func.id for call in calls if isinstance(call.func, ast.Name)]


def is_stub(node: ast.stmt) -> bool:
    """Whether a function's body is nothing but a docstring, `pass`, … or a raised NotImplementedError."""
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and all(map(_does_nothing, node.body))


def _does_nothing(node: ast.stmt) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Raise):
        return node.exc is not None and "NotImplemented" in ast.dump(node.exc)
    return isinstance(node, ast.Pass)


def _defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets: list[Any] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        targets = [node.target]
    return {target.id for target in targets if isinstance(target, ast.Name)}
