"""Make small wrong changes to the product, one at a time, and see whether a test fails (README.md beside this file).

One process imports the libraries; each change is tested in a fork of it, where the module's changed source is what is
imported. No file of the checkout is ever written, so tests that start processes of their own do not see a change.
"""

import argparse
import ast
import contextlib
import importlib
import importlib.machinery
import json
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", MPLBACKEND="Agg")

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOSSES = [f"wheels/distillation/{name}.py" for name in ("losses", "topk_losses", "path_loss", "multitask")]
MODULES = ["decoding/**/*.py", "envs/*.py", *LOSSES, "wheels/policy/path_consistency.py"]
"""What is drawn from unless `--of` says so."""
TESTS = ["tests/decoding", "tests/envs", "tests/distillation", "tests/annotation", "tests/agents"]
HOOK = ["tests/decoding/hf/test_generate.py"]
BY_NAME = {f"decoding/hf/{name}.py": HOOK for name in ("generate", "batch", "method", "pair")}
BY_NAME["envs/__init__.py"] = ["tests/envs/test_contract.py"]
"""What is reached without an import that could be read: `wheels.hf_generate`, and gymnasium's registry."""
OWN = ("wheels", "tests", "conftest", "test_")
CPU_SECONDS = 120
"""Of one change, at most: what loops for ever is found out by this. Processor time does not depend on the company."""
WALL_SECONDS = 600
MEMORY = 12 << 30


def main() -> None:
    """Draw the changes, test them, or count the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", default="mutants.jsonl", help="file of the changes, in this folder")
    commands = parser.add_subparsers(dest="command", required=True)
    draw_parser = commands.add_parser("draw", help="draw changes, all equally likely, into the list")
    draw_parser.add_argument("--count", type=int, default=400)
    draw_parser.add_argument("--seed", type=int, default=0)
    draw_parser.add_argument("--of", nargs="+", default=MODULES, metavar="PATTERN", help="modules, by their paths")
    test_parser = commands.add_parser("test", help="test the changes of the list that have no outcome")
    test_parser.add_argument("--again", action="store_true", help="those that survived")
    test_parser.add_argument("--seconds", type=float, default=15.0, help="of tests for each change, of processor time")
    test_parser.add_argument("--files", type=int, default=40, help="of tests for each change, the nearest ones")
    test_parser.add_argument("--slow", action="store_true", help="the slow tests too")
    test_parser.add_argument("--jobs", type=int, default=1)
    commands.add_parser("count", help="count the outcomes by module")
    given = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    place = Path(__file__).with_name(given.list)
    if given.command == "draw":
        draw(place, given.of, given.count, given.seed)
    elif given.command == "test":
        test_all(place, given)
    else:
        show_counts(place)


def draw(place: Path, patterns: list[str], count: int, seed: int) -> None:
    """Write a uniform sample of all changes of the modules."""
    from tests.mutation.operators import change, sites

    modules = sorted({str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)})
    sources = {name: (ROOT / name).read_text() for name in modules}
    every = [(name, site) for name, source in sources.items() for site in sites(source)]
    random.Random(seed).shuffle(every)
    mutants: list[dict] = []
    for name, site in every:
        made = change(sources[name], site) if len(mutants) < count else None
        if made is not None:
            mutants.append({"module": name, "operator": site.operator, **made, "outcome": "", "by": ""})
    write_list(place, sorted(mutants, key=order))
    print(f"{len(mutants)} of {len(every)} changes")


def order(mutant: dict) -> tuple:
    """Return what the list is sorted by."""
    return mutant["module"], mutant["line"], mutant["operator"], mutant["after"]


def read_list(place: Path) -> list[dict]:
    return [json.loads(line) for line in place.read_text().splitlines()]


def write_list(place: Path, mutants: list[dict]) -> None:
    place.write_text("".join(json.dumps(mutant, ensure_ascii=False) + "\n" for mutant in mutants))


def imports(path: Path) -> set[str]:
    """Return the product's modules and the tests' own that a file imports, as paths."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    folders = {f"wheels.{name}": name for name in ("decoding", "envs", "agents", "benchmarks")}
    paths = set()
    for name in found:
        head = ".".join(name.split(".")[:2])
        place = (folders[head] + name[len(head) :] if head in folders else name).replace(".", "/")
        paths |= {f"{place}.py", f"{place}/__init__.py"}
    return {name for name in paths if (ROOT / name).exists()}


def tests_by_distance() -> dict[str, list[str]]:
    """Return, for each module, the test files that reach it by their imports: the nearest first, then the smallest."""
    graph: dict[str, set[str]] = {}
    tests = [str(path.relative_to(ROOT)) for folder in TESTS for path in sorted((ROOT / folder).rglob("test_*.py"))]
    waiting = list(tests)
    while waiting:
        name = waiting.pop()
        if name not in graph:
            graph[name] = imports(ROOT / name)
            waiting += graph[name]
    reached: dict[str, list[tuple]] = {}
    for test in tests:
        distance, front = {test: 0}, [test]
        for name in front:
            for other in graph[name] - distance.keys():
                distance[other] = distance[name] + 1
                front.append(other)
        for name, far in distance.items():
            named = Path(test).stem != f"test_{Path(name).stem}"
            reached.setdefault(name, []).append((named, far, (ROOT / test).stat().st_size, test))
    return {name: [test for *_, test in sorted(found)] for name, found in reached.items()} | BY_NAME


class Until:
    """Runs tests until one fails or the time is over, and notes what happened."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.failed, self.tests = seconds, "", 0

    def pytest_sessionstart(self) -> None:
        from hypothesis import Phase, settings

        # A failure is enough; nobody reads its smallest example.
        settings.register_profile("mutants", settings(), phases=[Phase.explicit, Phase.generate])
        settings.load_profile("mutants")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.tests += 1
        if time.process_time() > self.seconds:
            item.session.shouldstop = "the time is over"
        return (yield)


def run_tests(files: list[str], seconds: float, *, slow: bool = False) -> str:
    """Run the tests of files in silence; return what failed, or nothing."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1), os.dup2(silent, 2)
    plugin = Until(time.process_time() + seconds)
    try:
        code = pytest.main(
            ["-x", "-q", "-m", "" if slow else "not slow", "-p", "no:cacheprovider", *files], plugins=[plugin]
        )
    except BaseException as error:
        return f"pytest raised {type(error).__name__}"
    stopped = plugin.failed or code not in (pytest.ExitCode.OK, pytest.ExitCode.INTERRUPTED)
    return plugin.failed or (f"pytest ended with {code!r}" if stopped else "")


def replace_source(path: Path, source: str) -> None:
    """Let Python import this source in place of a file's own."""
    load = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: importlib.machinery.SourceFileLoader, name: str) -> object:
        return compile(source, self.path, "exec") if Path(self.path).resolve() == path else load(self, name)

    importlib.machinery.SourceFileLoader.get_code = get_code


def in_fork(work: Callable[[], object]) -> tuple[int, int]:
    """Do something in a process of its own, within limits; return its number and a pipe with the result as JSON."""
    ours, theirs = os.pipe()
    process = os.fork()
    if process:
        os.close(theirs)
        return process, ours
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with os.fdopen(theirs, "w") as pipe:
        json.dump(work(), pipe)
    os._exit(0)


def libraries(files: list[str]) -> list[str]:
    """Return the libraries that the tests import, in order."""

    def collect() -> list[str]:
        run_tests(["--collect-only", *files], 600)
        return [name for name in sys.modules if not name.startswith(OWN) and name != "__main__"]

    process, pipe = in_fork(collect)
    with os.fdopen(pipe) as said:
        names = json.load(said)
    os.waitpid(process, 0)
    return names


class Trial:
    """A change under test, in a process of its own."""

    def __init__(self, mutant: dict, source: str, files: list[str], seconds: float, *, slow: bool) -> None:
        self.mutant, self.end = mutant, time.monotonic() + WALL_SECONDS

        def work() -> str:
            replace_source((ROOT / mutant["module"]).resolve(), source)
            return run_tests(files, seconds, slow=slow)

        self.process, self.pipe = in_fork(work)

    def over(self) -> bool:
        """Note the outcome once there is one."""
        ended, _ = os.waitpid(self.process, os.WNOHANG)
        if not ended and time.monotonic() < self.end:
            return False
        if not ended:
            os.killpg(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        with os.fdopen(self.pipe, "rb") as pipe:
            said = pipe.read()
        failed = json.loads(said) if said else "does not end, or takes the process down"
        self.mutant.update(outcome="killed" if failed else "survived", by=failed)
        return True


def test_all(place: Path, given: argparse.Namespace) -> None:
    """Test every change that waits, and keep each outcome at once."""
    files_of, mutants = tests_by_distance(), read_list(place)
    modules = {mutant["module"] for mutant in mutants}
    for library in libraries(sorted({file for name in modules for file in files_of.get(name, [])})):
        with contextlib.suppress(Exception):
            importlib.import_module(library)
    from tests.mutation.operators import apply

    waiting = [mutant for mutant in mutants if mutant["outcome"] == ("survived" if given.again else "")]
    random.Random(0).shuffle(waiting)  # so that a part of the run is a sample too
    running: list[Trial] = []
    total, done = len(waiting), 0
    while waiting or running:
        while waiting and len(running) < given.jobs:
            mutant = waiting.pop(0)
            path = ROOT / mutant["module"]
            source = path.read_text() if path.exists() else ""
            changed = apply(source, mutant["line"], mutant["before"], mutant["after"])
            if changed is None:
                mutant.update(outcome="gone", by="")
                continue
            nearest = files_of.get(mutant["module"], [])[: given.files]
            running.append(Trial(mutant, changed, nearest, given.seconds, slow=given.slow))
        time.sleep(0.05)
        for trial in [trial for trial in running if trial.over()]:
            running.remove(trial)
            done += 1
            write_list(place, mutants)
            print(f"{done}/{total}", *(trial.mutant[key] for key in ("module", "line", "outcome", "by")), flush=True)
    write_list(place, mutants)


def show_counts(place: Path) -> None:
    """Print a row of counts for each module."""
    counts = Counter((mutant["module"], mutant["outcome"] or "waits") for mutant in read_list(place))
    outcomes = sorted({outcome for _, outcome in counts})
    print("| module |", " | ".join(outcomes), "|")
    for module in [*sorted({module for module, _ in counts}), ""]:
        total = [sum(n for (m, o), n in counts.items() if o == outcome and module in (m, "")) for outcome in outcomes]
        print(f"| {module or 'all'} |", " | ".join(map(str, total)), "|")


if __name__ == "__main__":
    main()
