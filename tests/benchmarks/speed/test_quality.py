from __future__ import annotations

import pytest

from wheels.benchmarks.speed.quality import Judge, judged, same_texts
from wheels.metrics import score

REFERENCES = ["a man rides a horse", "two dogs run in the snow", "the child eats an apple"]
TEACHER = ["a man rides a horse", "two dogs run in snow", "a child eats an apple"]
OTHER = ["a man rides", "two cats run in snow", "a child eats an apple"]


def test_the_share_of_equal_texts() -> None:
    assert same_texts(OTHER, TEACHER) == pytest.approx(1 / 3)
    assert same_texts(TEACHER, TEACHER) == 1.0


def test_quality_is_the_metrics_own_with_the_difference_to_the_teacher() -> None:
    found = Judge(REFERENCES, ("chrf", "rougeL")).quality(OTHER, TEACHER)
    for metric in ("chrf", "rougeL"):
        own, theirs = (score(metric, texts, REFERENCES).value for texts in (OTHER, TEACHER))
        assert found[metric]["value"] == pytest.approx(own)
        assert found[metric]["difference"] == pytest.approx(own - theirs) and own < theirs
        assert found[metric]["low"] <= found[metric]["difference"] <= found[metric]["high"]


def test_the_teachers_own_texts_differ_by_nothing() -> None:
    found = Judge(REFERENCES, ("bleu",)).quality(TEACHER, TEACHER)["bleu"]
    assert (found["difference"], found["low"], found["high"]) == (0.0, 0.0, 0.0)


def test_equal_texts_are_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[list[str]] = []
    monkeypatch.setattr(
        Judge, "quality", lambda self, texts, teachers: scored.append([*texts]) or {"bleu": {"value": len(scored)}}
    )
    found = judged({"hf-teacher": TEACHER, "teacher": TEACHER, "student": OTHER}, "hf-teacher", Judge(REFERENCES, ()))
    assert scored == [TEACHER, OTHER]
    values = {name: each["bleu"]["value"] for name, each in found.items() if each is not None}
    assert values == {"hf-teacher": 1, "teacher": 1, "student": 2}


def test_without_references_there_is_no_quality() -> None:
    assert judged({"hf-teacher": TEACHER}, "hf-teacher", None) == {"hf-teacher": None}
