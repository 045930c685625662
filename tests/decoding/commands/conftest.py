"""A trained model's folder, and `wheels generate` run on it."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from tests.decoding.tiny import save_artefact, write
from wheels.cli.main import main
from wheels.decoding.methods.rules import RULES
from wheels.models import loading
from wheels.models.pair import Pair
from wheels.policy.calibration import Calibration, Point

THRESHOLDS = [Point("learned", 0, 0.2, 9.0, 0.2), Point("learned", 1, 0.2, -9.0, 0.2), Point("entropy", 0, 0.2, 0, 0.2)]
TEXTS = ["a b c", "d", "e f g h"]


READ: dict[str, PreTrainedModel] = {}


@pytest.fixture(autouse=True)
def reads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the same weights once: to read them takes longer than to write with them, and no command changes them."""
    read = loading.load_model

    def load_model(name: str | Path, **settings: Any) -> PreTrainedModel:
        files = sorted((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in Path(name).glob("*"))
        key = repr((str(name), settings, loading._settings, files))
        if key not in READ:
            READ[key] = read(name, **settings)
        return READ[key]

    monkeypatch.setattr("wheels.models.pair_loading.load_model", load_model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = save_artefact(tmp_path_factory.mktemp("generate") / "model")
    Calibration(THRESHOLDS).save(made / "deferral" / "calibration.json")
    return made


@pytest.fixture(scope="module")
def pair(folder) -> Pair:
    return Pair.load(folder, folder / "teacher")


@pytest.fixture
def call(folder, capsys, monkeypatch):
    """Return a function that runs `wheels generate` and returns its code, output and errors."""

    def run(*flags: str, stdin: bytes | None = None, model: object = folder) -> tuple[int, str, str]:
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(["generate", "--model", str(model), "--rule", "random", "--max-new-tokens", "8", *flags])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def expected(pair: Pair, texts: list[str] = TEXTS, budget: float = 0.5, **request) -> list:
    return write(pair, texts, RULES["random"].at(1 - budget), budget=budget, max_new_tokens=8, **request)
