"""Changes one thing in a program: an operator, a comparison or a constant, in the order in which they stand.

The order and what each is changed to are fixed, so that "the first mutation of a program" means the same every time.
"""

from __future__ import annotations

import ast
import copy
import itertools
from collections.abc import Iterator

OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitXor: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.USub: ast.UAdd,
    ast.UAdd: ast.USub,
}


def mutants(source: str, name: str) -> Iterator[str]:
    """Yields all mutants of a function in a program, in order, and at last one whose first `return` gives `None`."""
    tree = ast.parse(source)
    for place in itertools.count():
        changed = copy.deepcopy(tree)
        function = next(n for n in ast.walk(changed) if isinstance(n, ast.FunctionDef) and n.name == name)
        site = next(itertools.islice(_sites(function), place, None), None)
        if site is None:
            next(n for n in ast.walk(function) if isinstance(n, ast.Return)).value = ast.Constant(None)
        else:
            _change(site)
        yield ast.unparse(ast.fix_missing_locations(changed))
        if site is None:
            return


def _sites(function: ast.FunctionDef) -> Iterator[tuple[ast.AST, str, int]]:
    """Yields what can be changed: a node, the field that changes, and the index in it or -1."""
    for node in _in_order(function):
        if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign | ast.UnaryOp):
            if type(node.op) in OPERATORS:
                yield node, "op", -1
        elif isinstance(node, ast.Compare):
            for index in range(len(node.ops)):
                yield node, "ops", index
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
            yield node, "value", -1


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)  # a docstring, wherever it stands
    for child in ast.iter_child_nodes(node) if not text and not isinstance(node, ast.JoinedStr | ast.arguments) else ():
        yield from _in_order(child)


def _change(site: tuple[ast.AST, str, int]) -> None:
    node, field, index = site
    if field == "op":
        node.op = OPERATORS[type(node.op)]()
    elif field == "ops":
        node.ops[index] = OPERATORS[type(node.ops[index])]()
    elif isinstance(node.value, bool):
        node.value = not node.value
    else:
        node.value = (node.value[:-1] or "?") if isinstance(node.value, str) else node.value + 1
