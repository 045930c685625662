"""The metrics of the guide on data, as a file of the reader's own; the packages that are not here are stood in for."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from sacrebleu.metrics import TER

from tests.docs.blocks import ROOT, blocks_of
from wheels.metrics import own, score

TEXTS = (["a b c", "a"], ["a b d", "a"], ["x", "y"])


@pytest.fixture
def file(tmp_path: Path):
    page = (ROOT / "docs/guides/own-data.md").read_text(encoding="utf-8")
    (block,) = [block for block in blocks_of(page, "python") if "def comet(" in block]
    (tmp_path / "my_metrics.py").write_text(block)
    yield tmp_path / "my_metrics.py"
    own.OWN.clear()


def module(monkeypatch, name: str, **values: object) -> None:
    made = ModuleType(name)
    vars(made).update(values)
    monkeypatch.setitem(sys.modules, name, made)


def test_edits_are_negated(file):
    found = score(f"{file}:ter", *TEXTS)
    assert found.value == -sum(TER().sentence_score(a, [b]).score for a, b in zip(*TEXTS[:2], strict=True)) / 2 < 0
    assert found.signature.startswith("TER|case:lc|tok:tercom|code:") and found.signature.endswith("lower-is-better")


def test_comet_gets_source_text_and_reference(file, monkeypatch):
    def predict(samples: list, batch_size: int, gpus: int) -> SimpleNamespace:
        assert samples[0] == {"src": "x", "mt": "a b c", "ref": "a b d"} and (batch_size, gpus) == (32, 0)
        return SimpleNamespace(scores=[0.25, 0.75])

    model = SimpleNamespace(predict=predict)
    module(monkeypatch, "comet", download_model=lambda name: name, load_from_checkpoint=lambda path: model)
    assert score(f"{file}:comet", *TEXTS).value == 50.0


def test_bertscore_gives_its_third_part(file, monkeypatch):
    def by_words(texts: list, references: list, lang: str) -> tuple:
        return torch.zeros(2), torch.zeros(2), torch.tensor([0.5, 1.0])

    module(monkeypatch, "bert_score", score=by_words)
    assert score(f"{file}:bertscore", *TEXTS).value == 75.0
