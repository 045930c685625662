"""The small wrong changes that are made to a module: cosmic-ray's operators, and two of our own."""

import ast
import re
from dataclasses import dataclass

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

OPERATORS = [
    *["AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"],
    *["ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "NumberReplacer", "ZeroIterationForLoop"],
    *[f"ReplaceComparisonOperator_{pair}" for pair in (
        "Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_GtE", "LtE_Gt",
        "Gt_LtE", "GtE_Lt",
    )],
    *[f"ReplaceBinaryOperator_{pair}" for pair in (
        "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Div", "Mod_FloorDiv", "Pow_Mul", "BitAnd_BitOr",
        "BitOr_BitAnd",
    )],
    *[f"ReplaceUnaryOperator_Delete_{sign}" for sign in ("Not", "USub", "Invert")],
]  # fmt: skip
"""Of cosmic-ray: one or two replacements of each operator, where it knows ten."""

KEEPS_TYPE = {
    *("detach", "float", "double", "long", "clone", "contiguous", "clamp", "clamp_", "abs", "neg", "exp", "log"),
    *("sqrt", "square", "masked_fill", "log_softmax", "softmax", "nan_to_num", "flip", "sort", "strip", "lower"),
    *("copy", "transpose", "cumsum", "cumprod", "sigmoid", "floor", "round", "expand_as", "where", "cpu", "rstrip"),
}
"""Methods that may be left out: what is left is still of the type that the next one takes."""


@dataclass(frozen=True)
class Site:
    """Where a change can be made, and which."""

    operator: str
    """One of `OPERATORS`, or of our own: `DropMethod` (`x.detach()` becomes `x`), `DropStatement`."""
    occurrence: int
    """The how-many-th place of this operator in the module."""
    line: int
    """From 1."""


def sites(source: str) -> list[Site]:
    """Return every place for a change; annotations, `strict=` and `frozen=` are left alone."""
    tree, nodes = ast.parse(source), list(ast_nodes(get_ast(source)))
    found = []
    for name in OPERATORS:
        operator = get_operator(f"core/{name}")()
        # A bare `*` among parameters is no multiplication.
        places = [
            (*start, node.type == "operator" and node.parent.type in ("parameters", "param"))
            for node in nodes
            for start, _ in operator.mutation_positions(node)
        ]
        found += [(name, at, line, column) for at, (line, column, star) in enumerate(places) if not star]
    for name, own in _of_our_own(tree).items():
        found += [(name, at, node.lineno, node.col_offset) for at, (node, _) in enumerate(own)]
    guarded = _guarded(tree)
    return [
        Site(name, occurrence, line)
        for name, occurrence, line, column in found
        if not any(start <= (line, column) < end for start, end in guarded)
    ]


def change(source: str, site: Site) -> dict[str, str | int] | None:
    """Make a change: its function, first line, and the lines before and after; None where nothing runs of it."""
    tree = ast.parse(source)
    if site.operator in OPERATORS:
        mutated = mutate_code(source, get_operator(f"core/{site.operator}")(), site.occurrence)
    else:
        mutated = _cut(source, *_of_our_own(tree)[site.operator][site.occurrence])
    if mutated is None or not _compiles(mutated):
        return None
    line, before, after = _difference(source, mutated)
    inside = [name for name, start, end in _functions(tree) if start <= line <= end]
    return {"function": inside[-1] if inside else "", "line": line, "before": before, "after": after}


def apply(source: str, line: int, before: str, after: str) -> str | None:
    """Make a change again: at its own line, or the nearest that reads the same; None where none does."""
    lines, old, new = source.split("\n"), before.split("\n"), after.split("\n")
    places = [at for at in range(len(lines) - len(old) + 1) if lines[at : at + len(old)] == old]
    if not places:
        return None
    at = min(places, key=lambda place: abs(place + 1 - line))
    return "\n".join([*lines[:at], *new, *lines[at + len(old) :]])


def _of_our_own(tree: ast.Module) -> dict[str, list[tuple[ast.expr | ast.stmt, ast.expr | None]]]:
    """Return the methods of a chain, with what is kept of each, and the statements that only have an effect."""
    methods, statements = [], []
    for node in ast.walk(tree):
        chained = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in KEEPS_TYPE
        if chained and ast.unparse(node.func.value) not in ("torch", "functional", "F", "math", "np"):
            methods.append((node, node.func.value))
        effect = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        if effect or isinstance(node, ast.AugAssign):
            statements.append((node, None))
    return {"DropMethod": methods, "DropStatement": statements}


def _cut(source: str, node: ast.expr | ast.stmt, kept: ast.expr | None) -> str:
    """Leave a node out but for what is kept of it."""
    start, end = _offset(source, node.lineno, node.col_offset), _offset(source, node.end_lineno, node.end_col_offset)
    if kept is None:
        return source[:start] + "pass" + source[end:]
    start = _offset(source, kept.end_lineno, kept.end_col_offset)
    # A bracket around what is kept is kept as well.
    start += len(re.match(r"[\s)]*", source[start:end])[0])
    return source[:start] + source[end:]


def _offset(source: str, line: int, column: int) -> int:
    lines = source.split("\n")
    return sum(len(text) + 1 for text in lines[: line - 1]) + len(lines[line - 1].encode()[:column].decode())


def _guarded(tree: ast.Module) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the spans that hold no behaviour: annotations are never evaluated, `strict` and `frozen` only guard."""
    nodes: list[ast.AST | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            nodes.append(node.annotation)
        elif isinstance(node, ast.FunctionDef):
            nodes.append(node.returns)
        elif isinstance(node, ast.keyword) and node.arg in ("strict", "frozen"):
            nodes.append(node.value)
    return [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in nodes if n is not None]


def _functions(tree: ast.AST, prefix: str = "") -> list[tuple[str, int, int]]:
    """Return every function and class with its lines, outer ones first."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = f"{prefix}{node.name}"
            found += [(name, node.lineno, node.end_lineno), *_functions(node, f"{name}.")]
        else:
            found += _functions(node, prefix)
    return found


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _difference(source: str, mutated: str) -> tuple[int, str, str]:
    """Return the first line that differs, and the lines that do on both sides."""
    old, new = source.split("\n"), mutated.split("\n")
    start = next(at for at, (one, two) in enumerate(zip(old, new, strict=False)) if one != two)
    end = 0
    while end < min(len(old), len(new)) - start - 1 and old[-1 - end] == new[-1 - end]:
        end += 1
    return start + 1, "\n".join(old[start : len(old) - end]), "\n".join(new[start : len(new) - end])
