"""The value of arithmetic that a model wrote, computed without running it."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable

TOLERANCE = 1e-6
"""Two values are the same within this share of the larger one: answers are rounded when they are written down."""
LONGEST = 500
"""Characters of an equation; what is longer is none, and could nest too deep to read."""

_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def value_of(text: str) -> float | None:
    """Return the value of `text`, or None where it is not arithmetic of numbers, `+ - * /` and brackets.

    Division by zero and overflow give None too.
    """
    if len(text) > LONGEST:
        return None
    try:
        value = _evaluate(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None
    return value if math.isfinite(value) else None


def same_value(one: str, other: str) -> bool:
    """Whether both have the same value; a text without a value equals nothing."""
    first, second = value_of(one), value_of(other)
    return (
        first is not None and second is not None and math.isclose(first, second, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    )


def _evaluate(node: ast.expr) -> float:
    """Return the value of an allowed node.

    Raises:
        ValueError: for any other node.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _evaluate(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    raise ValueError(f"not arithmetic: {ast.dump(node)}")
