"""Programs with one operator turned into its opposite, which good tests tell from the right one."""

import ast
from collections.abc import Iterator

OPPOSITES: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}


def flips(code: str, entry_point: str) -> Iterator[tuple[int, str]]:
    """Each program with one operator of the function flipped: the operator's line, and the program."""
    number = 0
    while (flipped := _flipped(code, entry_point, number)) is not None:
        yield flipped
        number += 1


def _flipped(code: str, entry_point: str, number: int) -> tuple[int, str] | None:
    tree = ast.parse(code)
    for function in [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == entry_point]:
        for node in ast.walk(function):
            if isinstance(node, ast.Compare):
                for place, operator in enumerate(node.ops):
                    if number == 0:
                        node.ops[place] = OPPOSITES[type(operator)]()  # type: ignore[reportArgumentType]
                        return node.lineno, ast.unparse(tree)
                    number -= 1
            elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in OPPOSITES:
                if number == 0:
                    node.op = OPPOSITES[type(node.op)]()  # type: ignore[reportAttributeAccessIssue]
                    return node.lineno, ast.unparse(tree)
                number -= 1
    return None
