"""What every test stands on: no network, few threads, fixed seeds. Set before torch or a hub client is imported."""

import gc
import logging
import os
import random
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


class Deprecations(logging.Handler):
    """transformers logs what it will take away, where others warn: an error a release before, as the warnings are."""

    def emit(self, record: logging.LogRecord) -> None:
        """Stop the test whose call is deprecated."""
        if "deprecated" in record.getMessage():
            raise DeprecationWarning(record.getMessage())


logging.getLogger("transformers").addHandler(Deprecations())


def pytest_collection() -> None:
    """Prepare a process that runs tests: the one that hands them out collects none, and never comes here."""
    from hypothesis import settings

    settings.register_profile("wheels", deadline=None, derandomize=True, database=None)
    settings.load_profile("wheels")
    gc.disable()
    os.fsync = lambda file: None  # no test outlives a power cut, and a disk may take longer than all else


def pytest_collection_finish() -> None:
    """Look for garbage again, but not among all that was imported: it stays, and is large."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    gc.enable()
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.propagate = True  # pytest listens at each one that does not, six times a test


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Start each test from the same state of every generator that is loaded."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        # Without a card `manual_seed` would keep a stack trace for each kind of card, in case one is found later.
        (torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed)(0)


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Come back from wherever a test or a command goes to."""
    monkeypatch.chdir(".")


@pytest.fixture(autouse=True)
def logs() -> None:
    """Log as a command does by default, whatever a command of an earlier test has set."""
    logger = logging.getLogger("wheels")
    logger.handlers.clear()
    logger.propagate = True
    if logger.level != logging.INFO:
        logger.setLevel(logging.INFO)


@pytest.fixture(autouse=True)
def backend() -> None:
    """Let torch run decode steps, whatever a command of an earlier test has chosen."""
    if "wheels.decoding.models.backends" in sys.modules:
        sys.modules["wheels.decoding.models.backends"].use_backend("torch")


@pytest.fixture(autouse=True)
def costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no engine measure the models: that takes longer than to write with them, and times differ."""
    if "wheels.decoding.engine" in sys.modules:
        from tests.decoding.tiny import MADE_UP

        monkeypatch.setattr("wheels.decoding.engine.costs_of", lambda pair, batch_size: MADE_UP)


OTHERS = {"marian", "bart", "gpt2", "qwen2", "qwen3"}
"""Families beside T5 and Llama, which the fast tests take for all of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the other families to the slow tests: `make check` has them all."""
    for item in items:
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if any(value in OTHERS for value in values if isinstance(value, str)):
            item.add_marker(pytest.mark.slow)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a case of bytes by its argument: packed bytes may hold a date, and the workers must agree on the names."""
    return argname if isinstance(val, bytes) else None
