"""The pages of the Python API, made from the public names of each package: a new name has its entry at once.

What `import wheels` offers stands on the first page; the others have what it does not.
"""

from __future__ import annotations

import importlib

PACKAGES = {
    "wheels": "wheels",
    "decoding": "Decoding",
    "envs": "Environments",
    "agents": "Agents",
    "distillation": "Distillation",
    "annotation": "Annotation",
    "rationales": "Rationales",
    "data": "Data",
    "metrics": "Metrics",
}
"""Module of `wheels`, and the title of its page."""
FIRST = (
    "Model",
    "Trace",
    "Pair",
    "deferral",
    "verified",
    "speculative",
    "decode",
    "stream",
    "DecodeParams",
    "Sampling",
)
"""What a newcomer looks up; the other names follow by the alphabet."""


def api_pages() -> list[tuple[str, str, str]]:
    """Return path, title and Markdown of each page."""
    front = names_of("wheels")
    pages = [("api/wheels.md", "wheels", _page("wheels", front))]
    for package, title in PACKAGES.items():
        if package != "wheels":
            module = f"wheels.{package}"
            pages.append((f"api/{package}.md", title, _page(module, [n for n in names_of(module) if n not in front])))
    return pages


def names_of(module: str) -> list[str]:
    """Return the public functions, classes and values of a module, sub-packages left out."""
    found = importlib.import_module(module)
    public = getattr(found, "__all__", None) or [
        name for name, value in vars(found).items() if getattr(value, "__module__", None) == module and name[0] != "_"
    ]
    names = [name for name in public if name not in PACKAGES and not name.startswith("__")]
    return sorted(names, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name.lower()))


def _page(module: str, names: list[str]) -> str:
    """Return the page of one module."""
    lines = [
        f"# {module}",
        "",
        f"::: {module}",
        "    options:",
        "      members: false",
        "      show_root_heading: false",
        "",
    ]
    if module != "wheels":
        lines += ["What `import wheels` offers too is [on its own page](wheels.md).", ""]
    for name in names:
        lines += [f"::: {module}.{name}", ""]
    return "\n".join(lines)
