"""The layout of the house: which folder may import which, what the wheel holds, how light the command line is."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.marks import slow
from wheels.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent
FOLDERS = {"wheels": "wheels", "decoding": "wheels.decoding", "envs": "wheels.envs", "agents": "wheels.agents"}
FOLDERS["benchmarks"] = "wheels.benchmarks"
ORDER = ["core", "decoding", "envs", "agents", "api", "integrations", "benchmarks", "cli"]
"""A file imports from its own folder and from those before it."""
HEAVY = {"torch", "transformers", "trl", "gymnasium", "accelerate", "datasets", "matplotlib", "numpy", "yaml"}

FOR_WRITING = {"torch", "transformers", "numpy", "accelerate", "yaml"}
"""What a sentence needs; accelerate and yaml are imported by transformers, wherever they are installed."""
TRAINING = {"sacrebleu", "rouge_score", "pandas", "tensorboard", "transformers.trainer", "transformers.pipelines"}
TRAINING |= {"wheels.agents.run", "wheels.distillation.run", "wheels.distillation.trainer"}
TRAINING |= {"transformers.models.llama.modeling_llama", "transformers.models.bart.modeling_bart"}
TEXT = "Das Wetter wird morgen besser sein."


def product_files() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted((ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    parts = [FOLDERS[folder], *rest]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def level(module: str) -> str:
    """Return the folder of `ORDER` that a module belongs to."""
    second = module.split(".")[1] if "." in module else ""
    if second.startswith("cli") or second == "__main__":
        return "cli"
    return second if second in ORDER else "core"


@cache
def parsed(source: str) -> list[ast.stmt]:
    return ast.parse(source).body


def imports(name: str, source: str, known: set[str]) -> set[str]:
    """Return the modules of ours that `source` imports, at its top or anywhere inside.

    What an `__init__` shows to editors alone (`if TYPE_CHECKING`) it imports only when it is asked for it.
    """
    found = set()
    for node in (node for statement in parsed(source) if not is_facade(statement) for node in ast.walk(statement)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else str(node.module))
    return {module for module in found if module.split(".")[0] == "wheels"} - {name}


def is_facade(node: ast.AST) -> bool:
    """Tell whether a statement is a package's block of lazy names: `if TYPE_CHECKING: ... else: ... = lazy(...)`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and "lazy(" in ast.unparse(node)


def graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    return {name: imports(name, source, set(sources)) for name, source in sources.items()}


def arrows_up(edges: Mapping[str, set[str]]) -> list[str]:
    return [
        f"{name} -> {target}"
        for name, targets in edges.items()
        for target in sorted(targets)
        if ORDER.index(level(target)) > ORDER.index(level(name))
    ]


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """Return the modules of one circle of imports, or nothing."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(edges.get(name, ())):
            if found := walk(target, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in edges if (found := walk(name, []))), [])


@pytest.fixture(scope="module")
def edges() -> dict[str, set[str]]:
    return graph({module_name(path): path.read_text(encoding="utf-8") for path in product_files()})


def test_no_arrow_points_up(edges):
    assert arrows_up(edges) == []


def test_no_circle(edges):
    assert circle(edges) == []


def test_every_import_of_ours_exists(edges):
    assert sorted(target for targets in edges.values() for target in targets if target not in edges) == []


@pytest.mark.parametrize(
    ("name", "source", "arrow"),
    [
        (
            "wheels.models.pair",
            "from wheels.decoding.engine import decode",
            "wheels.models.pair -> wheels.decoding.engine",
        ),
        ("wheels.models.pair", "from wheels.decoding import engine", "wheels.models.pair -> wheels.decoding.engine"),
        ("wheels.distillation.trainer", "import wheels.agents", "wheels.distillation.trainer -> wheels.agents"),
        (
            "wheels.decoding.engine",
            "def f():\n    import wheels.envs.deferral",
            "wheels.decoding.engine -> wheels.envs.deferral",
        ),
        ("wheels.envs.deferral", "from wheels.agents.gate import x", "wheels.envs.deferral -> wheels.agents.gate"),
        ("wheels.agents.gate", "from wheels import benchmarks", "wheels.agents.gate -> wheels.benchmarks"),
        (
            "wheels.benchmarks.curve.run",
            "from wheels.cli.main import main",
            "wheels.benchmarks.curve.run -> wheels.cli.main",
        ),
    ],
)
def test_an_arrow_up_is_seen(name, source, arrow):
    known = dict.fromkeys(["wheels.decoding.engine", "wheels.agents", "wheels.benchmarks", "wheels.cli.main"], "")
    assert arrows_up(graph({**known, name: source})) == [arrow]


def test_an_arrow_down_is_allowed():
    assert (
        arrows_up(
            graph({"wheels.agents.gate": "import wheels.envs, wheels.models.pair\nfrom wheels.decoding.step import S"})
        )
        == []
    )


def test_a_circle_is_seen():
    sources = {"wheels.a": "import wheels.b", "wheels.b": "def f():\n    from wheels.c import x", "wheels.c": ""}
    assert circle(graph(sources)) == []
    sources["wheels.c"] = "from wheels import a"
    assert circle(graph(sources)) == ["wheels.a", "wheels.b", "wheels.c", "wheels.a"]


def test_packages_list_names_every_folder_with_code():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {module_name(path.parent / "__init__.py") for path in product_files()}
    assert set(declared) == folders
    missing = [path.parent for path in product_files() if not (path.parent / "__init__.py").exists()]
    assert missing == []


def shipped() -> dict[str, Path]:
    """Return where every file that must be in the wheel stands there, and here."""
    files = [*product_files(), ROOT / "wheels/py.typed", *(ROOT / "benchmarks/recipes").glob("*.yaml")]
    files += [ROOT / "decoding/serve" / name for name in ("page.html", "page.js")]
    files += [path for path in (ROOT / "wheels/assets").rglob("*") if path.is_file()]
    places = {}
    for path in files:
        folder, *rest = path.relative_to(ROOT).parts
        places["/".join([*FOLDERS[folder].split("."), *rest])] = path
    return places


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_ours_and_no_other(tmp_path):
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, tmp_path)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("training_wheels-*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert held == set(shipped())
        for name, path in shipped().items():
            assert archive.read(name) == path.read_bytes(), name
        (entry,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "wheels = wheels.__main__:main" in archive.read(entry).decode()


def test_help_imports_nothing_heavy():
    code = f"""
import sys
from wheels.cli.main import COMMANDS, main
for command in ["", *COMMANDS]:
    code = main([*command.split(), "--help"])
    print(end=chr(0))
    print([command, code, *sorted({HEAVY!r} & set(sys.modules))], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines() == [str([command, 0]) for command in ["", *COMMANDS]]
    for command, shown in zip(["", *COMMANDS], done.stdout.split("\0"), strict=False):
        assert shown.startswith(f"usage: wheels {command}".strip())


@pytest.mark.parametrize(
    ("code", "needed"),
    [
        *slow(
            (f"from wheels.cli.main import main; main(['generate', {TEXT!r}])", FOR_WRITING),
            (f"import wheels; wheels.Model.embedded().generate([{TEXT!r}])", FOR_WRITING),
            ("from wheels.cli.main import main; main(['env'])", {"torch", "numpy"}),
        ),
        ("from wheels.cli.main import main; main(['--version'])", set()),
    ],
)
def test_only_what_is_used_is_imported(code, needed):
    code += "; import sys; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stderr.splitlines()[-1].split())
    assert loaded & (HEAVY | TRAINING) <= needed and "wheels" in loaded


@pytest.mark.parametrize("command", ["", "train", "bench curve"])
def test_help_answers_within_300_ms(command):
    def spent() -> float:
        return os.times().children_user + os.times().children_system

    def seconds() -> float:
        before = spent()
        arguments = [sys.executable, "-m", "wheels", *command.split(), "--help"]
        subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True)
        return spent() - before

    # Of the processor, not of a clock on the wall; the best of several, for other tests may heat the machine.
    assert any(seconds() < 0.3 for _ in range(8))


def test_no_file_and_no_function_grows_beyond_the_house():
    long = [f"{path.relative_to(ROOT)}: {lines}" for path in product_files() if (lines := line_count(path)) > 400]
    for path in product_files():
        for node in (node for statement in parsed(path.read_text(encoding="utf-8")) for node in ast.walk(statement)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 50:
                long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}")
    assert long == []


def line_count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())
