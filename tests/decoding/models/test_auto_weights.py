"""`auto` weights: the fastest kind by made-up times, measured once a shape; float32 where nothing can be chosen."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from tests.decoding.tiny import VOCABULARY, make_model, make_pair
from wheels.decoding.models import auto_weights, backends, registry
from wheels.decoding.models.auto_weights import chosen_weights
from wheels.decoding.models.linear import BFloat16Linear, Int8Linear
from wheels.decoding.models.self_check import checked_runner
from wheels.decoding.params import DecodeParams
from wheels.decoding.passes import Passes
from wheels.decoding.sequences import TextBatch, prepare_sequences


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds of a step by kind of weights; each step runs once, as where it is timed."""
    seconds = {"float32": 2.0, "int8": 3.0, "bfloat16": 4.0}

    def made_up(name: str, runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        for run in runs.values():
            run()
        return {kind: seconds[kind] for kind in runs}

    monkeypatch.setattr(auto_weights, "best_times", made_up)
    monkeypatch.setattr(auto_weights, "multiplies_bfloat16", lambda: False)
    return seconds


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("best", ["float32", "int8"])
def test_the_fastest_is_chosen_and_the_others_are_forgotten(family: str, best: str, times, caplog) -> None:
    model = make_model(family, 16, 1).float()
    times[best] = 1.0
    assert chosen_weights(model, "auto", 3, VOCABULARY) == best
    assert set(registry._made[model]) == {best}
    assert f"{best}, the fastest of float32, int8 at batch size 3" in caplog.text


def test_what_is_asked_for_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_weights, "best_times", lambda *args: pytest.fail("timed"))
    for kind in ("float32", "int8", "bfloat16"):
        assert chosen_weights(make_model("llama", 16, 1).float(), kind, 3, VOCABULARY) == kind
    other = make_model("llama", 16, 1).bfloat16()
    assert chosen_weights(other, "auto", 3, VOCABULARY) == "float32", "there is nothing to choose"


def test_a_measurement_is_of_the_shape_and_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(auto_weights, "best_times", lambda name, runs: names.append(name) or dict.fromkeys(runs, 1.0))
    for width, seed, rows in ((16, 1, 2), (16, 2, 2), (24, 1, 2), (16, 1, 4)):
        chosen_weights(make_model("llama", width, seed).float(), "auto", rows, VOCABULARY)
    assert names[0] == names[1] and len({*names}) == 3


def test_compiled_steps_compete_too_and_are_forgotten(times) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model = make_model("llama", 16, 1).float()
    backends.use_backend("auto")
    try:
        times["int8"] = 1.0
        assert chosen_weights(model, "auto", 2, VOCABULARY) == "int8"
        assert set(backends._compiled[model]) == {"int8"}
    finally:
        backends.use_backend("torch")


def test_a_runner_and_both_models_of_a_pair_take_what_was_chosen(times) -> None:
    times["int8"] = 1.0
    runner = checked_runner(make_model("llama", 16, 1).float(), 2, VOCABULARY, weights="auto")
    assert runner.weights == "int8" and isinstance(runner.backend.blocks[0].feed_forward.out, Int8Linear)
    pair = replace(make_pair("t5"), teacher_weights="int8")
    pair.teacher.float()
    texts = TextBatch(pair, 1, prepare_sequences(pair, ["a b"], 4))
    passes = Passes(pair, texts, DecodeParams(max_new_tokens=4))
    assert (passes.student.weights, passes.teacher.weights) == ("float32", "int8")


def test_a_step_is_that_of_the_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = make_model("llama", 16, 1).float(), {}

    def look(name: str, runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        for kind, run in runs.items():
            run()
            seen[kind] = type(registry._made[model][kind][1].blocks[0].feed_forward.out)
        return dict.fromkeys(runs, 1.0)

    monkeypatch.setattr(auto_weights, "best_times", look)
    chosen_weights(model, "auto", 2, VOCABULARY)
    assert seen["int8"] is Int8Linear and seen.get("bfloat16", BFloat16Linear) is BFloat16Linear
    assert seen["float32"] not in (Int8Linear, BFloat16Linear)
