"""The frontier of a sweep, by hand and where there is little of it."""

import pytest

from wheels.benchmarks.core.cell import Record
from wheels.benchmarks.passes.settings import Setting, choose, frontier
from wheels.data.tasks import Row
from wheels.decoding.methods.method import deferral
from wheels.decoding.methods.rules import RULES


@pytest.mark.parametrize(
    ("points", "chosen"),
    [
        ([], []),
        ([(0.3, 5.0)], [0]),
        ([(0.1, 10.0), (0.2, 20.0), (0.3, 25.0)], [0, 1, 2]),  # concave: all
        ([(0.3, 25.0), (0.1, 10.0), (0.2, 20.0)], [1, 2, 0]),  # in rising order of passes
        ([(0.1, 10.0), (0.2, 12.0), (0.3, 30.0)], [0, 2]),  # under the chord
        ([(0.25, 10.0), (0.5, 20.0), (0.75, 30.0)], [0, 2]),  # on it: a mixture is as good
        ([(0.1, 10.0), (0.2, 9.0)], [0]),  # dearer and worse
        ([(0.1, 10.0), (0.2, 20.0), (0.4, 20.0)], [0, 1]),  # dearer and as good
        ([(0.1, 10.0), (0.1, 12.0), (0.1, 12.0)], [1]),  # of equal cost the best, of equals the first
        ([(0.0, 0.0), (0.1, 1.0), (0.2, 3.0), (0.3, 6.0), (0.4, 10.0), (0.5, 10.5)], [0, 4, 5]),  # several fall at once
    ],
)
def test_frontier(points, chosen):
    assert frontier(points) == chosen


def test_choose_says_what_was_tried():
    methods = [deferral(RULES["random"], budget) for budget in (0.1, 0.2, 0.3)]
    settings = [Setting("deferral", f"budget {method.budget:g}", method, "deferral", 0) for method in methods]
    outputs = [[Record(text, 10, passes, passes, passes, 1.0)] for text, passes in (("x", 1), ("a", 2), ("x", 3))]
    tried = choose(settings, outputs, [Row("x", "a")], "exact")
    assert [tuple(each.values()) for each in tried] == [
        ("deferral, budget 0.1", 0.1, 0.0, True),
        ("deferral, budget 0.2", 0.2, 100.0, True),
        ("deferral, budget 0.3", 0.3, 0.0, False),
    ]
