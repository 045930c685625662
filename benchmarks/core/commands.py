"""What the stages of a recipe run: the commands of `wheels`, and the pair that they start from."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path

from wheels.agents.config import TrainConfig
from wheels.benchmarks.curve.config import CurveConfig
from wheels.benchmarks.frontier.config import FrontierConfig
from wheels.benchmarks.passes.config import PassesConfig
from wheels.decoding.commands.calibrate_config import CalibrateConfig
from wheels.distillation.config import PretrainConfig
from wheels.files import read_object


def embedded_pair() -> Path:
    """Return the folder of the embedded pair, as `wheels.models.artefact` does, without loading torch for it."""
    return Path(str(resources.files("wheels"))) / "assets" / "embedded-translation"


def folder_digest(folder: Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 over all files of a folder and their names."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(json.dumps(file.relative_to(folder).as_posix()).encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]


def distil(config: PretrainConfig) -> None:
    """Run `wheels pretrain`."""
    from wheels.distillation.run import run as pretrain

    folder = pretrain(config)
    print(json.dumps(read_object(folder / "finished.json")))


def train(config: TrainConfig) -> None:
    """Run `wheels train`."""
    from wheels.agents.run import run as learn

    learn(config)


def calibrate(config: CalibrateConfig) -> None:
    """Run `wheels calibrate`."""
    from wheels.decoding.commands.calibrate import run as find

    find(config)


def curve(config: CurveConfig) -> None:
    """Run `wheels bench curve`."""
    from wheels.benchmarks.curve.run import run as measure

    measure(config)


def frontier(config: FrontierConfig) -> None:
    """Run `wheels bench frontier`, of models that are there."""
    from wheels.benchmarks.frontier.run import run as measure

    measure(config)


def passes(config: PassesConfig) -> None:
    """Run `wheels bench passes`."""
    from wheels.benchmarks.passes.run import run as measure

    measure(config)
