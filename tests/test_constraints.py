"""`tests/constraints.txt`: the versions that all tests were last run with."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def test_every_package_that_the_tests_need_has_one_version():
    pins = dict(line.split("==") for line in (ROOT / "tests" / "constraints.txt").read_text().splitlines())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(each for name in ("dev", "test", "serve", "docs", "onnx", "peft", "gguf") for each in extras[name]),
    ]
    for each in map(Requirement, wanted):
        name = re.sub("[-_.]+", "-", each.name).lower()
        assert name == project["name"] or each.specifier.contains(pins[name]), each
