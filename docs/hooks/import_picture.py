"""The picture of imports: which room imports which, read from the code by `ast` and drawn as SVG.

A matrix: the room of a row imports the rooms of the columns that are filled. Rooms stand from the top of the house to
its ground, so what points down is above the diagonal. Below it: orange, two rooms of one folder that need each other;
red, an import that points up to another folder, which `tests/test_house.py` refuses.

`python docs/hooks/import_picture.py > imports.svg` draws it for itself; the architecture page has it from here.
"""

from __future__ import annotations

import ast
import html
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("benchmarks", "agents", "envs", "decoding", "wheels")
"""From top to bottom; an import may point down, never up."""
TOP = "front door"
"""The command line, `wheels/api.py` and `wheels/integrations`: they may import everything."""
CELL, LEFT, ABOVE = 26, 170, 150
DOWN, MUTUAL, UP = "#4c72b0", "#dd8452", "#d62728"


def edges_of(root: Path) -> Counter[tuple[str, str]]:
    """Return how many import statements lead from one room to another, all folders under `root` read."""
    files = {path: _module(path.relative_to(root)) for folder in FOLDERS for path in (root / folder).rglob("*.py")}
    known, edges = set(files.values()), Counter[tuple[str, str]]()
    for path, name in files.items():
        for target in _imports(path.read_text(encoding="utf-8"), known):
            a, b = room(name), room(target)
            if a != b:
                edges[a, b] += 1
    return edges


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    full = parts if parts[0] == "wheels" else ("wheels", *parts)
    return ".".join(full[:-1] if full[-1] == "__init__" else full)


def _imports(source: str, known: set[str]) -> set[str]:
    """Return the modules of ours that a file imports, at its top or in a function; not those for type checkers."""
    found = set()
    for node in _run(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & known) or {node.module}
    return found & known


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that run: all but those under `if TYPE_CHECKING`."""
    yield node
    lazy = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    for child in node.orelse if isinstance(node, ast.If) and lazy else ast.iter_child_nodes(node):
        yield from _run(child)


def room(module: str) -> str:
    """Return the room of a module: `decoding/methods`, `wheels/data`, or the front door."""
    _, *parts = module.split(".")
    if parts and (parts[0] in ("__main__", "api", "integrations") or parts[0].startswith("cli")):
        return TOP
    folder = parts[0] if parts and parts[0] in FOLDERS else "wheels"
    inner = parts[1:] if parts and parts[0] in FOLDERS else parts
    rooms = _rooms(folder)
    return f"{folder}/{inner[0]}" if inner and inner[0] in rooms else folder


def _rooms(folder: str) -> set[str]:
    """Return the sub-folders with code."""
    path = Path(__file__).parents[2] / folder
    return {inner.parent.name for inner in path.glob("*/__init__.py")}


def rooms_of(edges: Counter[tuple[str, str]]) -> list[str]:
    """Return the rooms from the top to the ground, folder by folder; within one, the least imported first."""
    left, ordered = {name for edge in edges for name in edge}, list[str]()
    while left:
        top = min(map(_rank, left))
        here = sorted(name for name in left if _rank(name) == top)
        chosen = min(here, key=lambda name: sum(n for (a, b), n in edges.items() if b == name and a in here))
        ordered.append(chosen)
        left.remove(chosen)
    return ordered


def _rank(name: str) -> int:
    return (TOP, *FOLDERS).index(name.split("/")[0])


def draw(edges: Counter[tuple[str, str]]) -> str:
    """Return the SVG of the matrix, a number of import statements in each filled cell."""
    rooms = rooms_of(edges)
    side = CELL * len(rooms)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + side + 90} {ABOVE + side + 4}" '
        'font-family="sans-serif" font-size="13" fill="currentColor">'
    ]
    for i, name in enumerate(rooms):
        middle = CELL * i + CELL / 2
        turned = f'transform="translate({LEFT + middle + 5:.0f} {ABOVE - 8}) rotate(-55)"'
        lines.append(f'<text x="{LEFT - 8}" y="{ABOVE + middle + 4:.0f}" text-anchor="end">{html.escape(name)}</text>')
        lines.append(f"<text {turned}>{html.escape(name)}</text>")
        lines.append(_square(i, i, "currentColor", 0.35))
        new = i == 0 or _rank(name) != _rank(rooms[i - 1])
        strong = 0.6 if new else 0.12
        for x1, y1, x2, y2 in (
            (LEFT, ABOVE + CELL * i, LEFT + side, ABOVE + CELL * i),
            (LEFT + CELL * i, ABOVE, LEFT + CELL * i, ABOVE + side),
        ):
            lines.append(f'<path d="M{x1} {y1}L{x2} {y2}" stroke="currentColor" opacity="{strong}"/>')
    for (a, b), count in edges.items():
        row, column = rooms.index(a), rooms.index(b)
        color = DOWN if column > row else MUTUAL if _rank(a) == _rank(b) else UP
        lines.append(_square(row, column, color, min(0.9, 0.25 + 0.05 * count)))
        x, y = LEFT + CELL * column + CELL / 2, ABOVE + CELL * row + CELL / 2 + 4
        lines.append(f'<text x="{x:.0f}" y="{y:.0f}" font-size="11" text-anchor="middle">{count}</text>')
    return "\n".join([*lines, "</svg>"])


def _square(row: int, column: int, color: str, opacity: float) -> str:
    x, y = LEFT + CELL * column + 1, ABOVE + CELL * row + 1
    return f'<rect x="{x}" y="{y}" width="{CELL - 2}" height="{CELL - 2}" fill="{color}" opacity="{opacity:.2f}"/>'


if __name__ == "__main__":
    sys.stdout.write(draw(edges_of(Path(__file__).parents[2])))
