"""How a step's cost is measured by model, batch and length."""

import pytest

from wheels.benchmarks.core.style import LIGHT
from wheels.benchmarks.speed import growth
from wheels.benchmarks.speed.forward_timer import Machine
from wheels.benchmarks.speed.growth_plot import draw
from wheels.decoding.models.backends import is_installed, use_backend
from wheels.models.build import ModelSize

SIZE = ModelSize(width=32, layers=2, heads=2, ff=48)


@pytest.mark.skipif(not is_installed(), reason="ONNX Runtime is not installed")
def test_steps_and_their_bounds(monkeypatch):
    monkeypatch.setattr(growth, "BATCHES", (1, 3))
    monkeypatch.setattr(growth, "LENGTHS", (4, 70))
    monkeypatch.setattr(growth, "RIVALS", {})
    monkeypatch.setattr(growth, "MEMORY", 4 * 3 * 71 * 128 - 1)
    use_backend("onnx")
    steps = list(growth.steps_of(SIZE, Machine(bandwidth=1e6, peak=1e9)))
    shapes = [(1, 4), (1, 70), (3, 4)]
    found = [(step.weights, step.batch, step.length) for step in steps]
    assert found == [(weights, *shape) for weights in ("float32", "int8") for shape in shapes], "too large is left out"
    body, head, kept = 2 * (4 * 32**2 + 3 * 32 * 48), 8000 * 32, 2 * 2 * 32
    for step in steps:
        positions = step.batch * (step.length + 1)
        of_weights = (body + head) * (4 if step.weights == "float32" else 1)
        assert step.moved == of_weights + 4 * positions * kept
        assert step.bound_ms == pytest.approx(step.moved / 1e3) and step.ms > 0 and step.rival_ms is None
    assert len(draw({"steps": [vars(step) for step in steps]}, LIGHT).axes) == 2
