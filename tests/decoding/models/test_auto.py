"""`auto`: the fastest way to run a model by made-up times, measured once a shape; torch where nothing can be chosen."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from tests.decoding.tiny import VOCABULARY, make_model, make_pair
from wheels.decoding.models import auto, backends, registry
from wheels.decoding.models.auto import choices_of, chosen
from wheels.decoding.models.backends import is_installed, use_backend
from wheels.decoding.models.linear import BFloat16Linear, Int8Linear
from wheels.decoding.models.self_check import checked_runner
from wheels.decoding.params import DecodeParams
from wheels.decoding.passes import Passes
from wheels.decoding.sequences import TextBatch, prepare_sequences

needs_onnx = pytest.mark.skipif(not is_installed(), reason="ONNX Runtime is not installed")


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds by backend and kind of weights; everything runs once, as where it is timed."""
    seconds = {"torch float32": 2.0, "torch int8": 3.0, "torch bfloat16": 4.0, "onnx float32": 5.0, "onnx int8": 6.0}

    def made_up(name: str, runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        for run in runs.values():
            run()
        return {way: seconds[way] for way in runs}

    monkeypatch.setattr(auto, "best_times", made_up)
    monkeypatch.setattr(auto, "multiplies_bfloat16", lambda: False)
    return seconds


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("best", ["float32", "int8"])
def test_the_fastest_is_chosen_and_the_others_are_forgotten(family: str, best: str, times, caplog) -> None:
    model = make_model(family, 16, 1).float()
    times[f"torch {best}"] = 1.0
    assert chosen(model, "auto", 3, VOCABULARY) == ("torch", best)
    assert set(registry._made[model]) == {best}
    assert f"torch {best}, the fastest of torch float32, torch int8 at batch size 8" in caplog.text


def test_what_is_asked_for_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "best_times", lambda *args: pytest.fail("timed"))
    for kind in ("float32", "int8", "bfloat16"):
        assert chosen(make_model("llama", 16, 1).float(), kind, 3, VOCABULARY) == ("torch", kind)
    other = make_model("llama", 16, 1).bfloat16()
    for backend in ("torch", "auto"):
        use_backend(backend)
        assert chosen(other, "auto", 3, VOCABULARY) == ("torch", "float32"), "there is nothing to choose"


@needs_onnx
@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("best", ["torch", "onnx"])
def test_the_fastest_backend_of_each_model_runs_it(family: str, best: str, times) -> None:
    use_backend("auto")
    model = make_model(family, 64, 1).float()
    times[f"{best} float32"] = 1.0
    assert chosen(model, "float32", 8, VOCABULARY) == (best, "float32")
    assert set(backends._compiled[model]) == ({"float32"} if best == "onnx" else set())
    runner = checked_runner(model, 8, VOCABULARY)
    assert runner.runs_on == f"{best} float32"
    runner.admit(range(8), [[3, 4]] * 8)
    model.train()
    runner.refresh()
    model.eval()
    runner.refresh()
    assert runner.runs_on == f"{best} float32", "and goes on after a training"


@needs_onnx
def test_a_model_that_cannot_be_compiled_is_torchs_whatever_was_measured(times, monkeypatch) -> None:
    monkeypatch.setattr(backends, "_if_supported", lambda make: None)
    use_backend("auto")
    times["onnx float32"] = 1.0
    assert checked_runner(make_model("llama", 16, 1).float(), 8, VOCABULARY).runs_on == "torch float32"


def test_a_measurement_is_of_the_shape_and_about_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(auto, "best_times", lambda name, runs: names.append(name) or dict.fromkeys(runs, 1.0))
    for width, seed, rows in ((16, 1, 2), (16, 2, 2), (24, 1, 2), (16, 1, 3), (16, 1, 15), (16, 1, 64)):
        chosen(make_model("llama", width, seed).float(), "auto", rows, VOCABULARY)
    assert names[0] == names[1] and len({*names}) == 4
    assert [name.rpartition("batch size ")[2] for name in names[2:]] == ["1", "8", "8", "32"]


@needs_onnx
def test_compiled_passes_compete_in_every_format_that_they_have(times) -> None:
    model = make_model("llama", 16, 1).float()
    use_backend("auto")
    times["onnx int8"] = 1.0
    assert chosen(model, "auto", 2, VOCABULARY) == ("onnx", "int8")
    assert set(backends._compiled[model]) == {"int8"}
    use_backend("torch")
    assert chosen(model, "auto", 2, VOCABULARY) == ("torch", "float32"), "what another backend was chosen from"


def test_a_runner_and_both_models_of_a_pair_take_what_was_chosen(times) -> None:
    times["torch int8"] = 1.0
    runner = checked_runner(make_model("llama", 16, 1).float(), 2, VOCABULARY, weights="auto")
    assert runner.weights == "int8" and isinstance(runner.backend.blocks[0].feed_forward.out, Int8Linear)
    pair = replace(make_pair("t5"), teacher_weights="int8")
    pair.student.float(), pair.teacher.float()
    texts = TextBatch(pair, 1, prepare_sequences(pair, ["a b"], 4))
    passes = Passes(pair, texts, DecodeParams(max_new_tokens=4))
    assert [passes.student.runs_on, passes.teacher.runs_on] == ["torch float32", "torch int8"]
    assert choices_of(pair, 2) == (("torch", "float32"), ("torch", "int8"))


def test_a_step_is_that_of_the_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = make_model("llama", 16, 1).float(), {}

    def look(name: str, runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        for way, run in runs.items():
            run()
            kind = way.removeprefix("torch ")
            seen[kind] = type(registry._made[model][kind][1].blocks[0].feed_forward.out)
        return dict.fromkeys(runs, 1.0)

    monkeypatch.setattr(auto, "best_times", look)
    chosen(model, "auto", 2, VOCABULARY)
    assert seen["int8"] is Int8Linear and seen.get("bfloat16", BFloat16Linear) is BFloat16Linear
    assert seen["float32"] not in (Int8Linear, BFloat16Linear)
