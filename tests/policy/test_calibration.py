"""`calibration.json`, and the threshold that it gives for a budget."""

import json
import math
from dataclasses import replace

import pytest

from wheels.errors import WheelsError
from wheels.policy.calibration import Calibration, Point

POINTS = [
    Point("entropy", 0, 0.1, 2.0, 0.12),
    Point("entropy", 0, 0.3, 1.0, 0.28),
    Point("entropy", 0, 0.5, 0.5, 0.50),
    Point("learned", 0, 0.1, 0.9, 0.1),
    Point("learned", 1, 0.1, 0.8, 0.1),
]


@pytest.mark.parametrize(
    ("rule", "budget", "seed", "expected"),
    [
        ("entropy", 0.1, 0, 2.0),  # asked for by that name, though it gave 0.12
        ("entropy", 0.2, 0, 1.5),  # half way between uses 0.12 and 0.28
        ("entropy", 0.39, 0, 0.75),
        ("entropy", 0.0, 0, math.inf),
        ("entropy", 1.0, 0, -math.inf),
        ("learned", 0.1, 0, 0.9),
        ("learned", 0.1, 1, 0.8),
        ("margin", 0.0, 3, math.inf),
    ],
)
def test_thresholds_by_hand(rule, budget, seed, expected):
    assert Calibration(POINTS).threshold(rule, budget, seed) == pytest.approx(expected)


def test_a_higher_budget_never_has_a_higher_threshold():
    calibration = Calibration(POINTS)
    thresholds = [calibration.threshold("entropy", 0.12 + step * 0.38 / 20) for step in range(20)]
    assert thresholds == sorted(thresholds, reverse=True)


def test_two_points_of_one_use():
    twice = Calibration([Point("entropy", 0, 0.1, 2.0, 0.2), Point("entropy", 0, 0.15, 1.9, 0.2)])
    assert twice.threshold("entropy", 0.2) in (1.9, 2.0)


@pytest.mark.parametrize(
    ("rule", "budget", "seed", "message"),
    [
        ("entropy", 0.05, 0, r"rule 'entropy' \(seed 0\) is calibrated from 0.120 to 0.500 only, .* budget 0.05$"),
        ("entropy", 0.9, 0, r"no threshold is known for budget 0.9$"),
        ("learned", 0.1, 2, r"rule 'learned' \(seed 2\) is not calibrated"),
        ("margin", 0.2, 0, r"rule 'margin' \(seed 0\) is not calibrated"),
        ("entropy", 20, 0, r"teacher_budget must be in \[0, 1\], got 20; did you mean 0.2\?"),
        ("entropy", float("nan"), 0, r"teacher_budget must be in \[0, 1\], got nan"),
    ],
)
def test_what_is_not_known_is_refused(rule, budget, seed, message):
    with pytest.raises(WheelsError, match=message):
        Calibration(POINTS).threshold(rule, budget, seed)


@pytest.mark.parametrize(
    ("rule", "budget", "seed", "expected"),
    [
        ("entropy", 0.1, 0, 2.0),
        ("entropy", 0.39, 0, 0.75),
        ("entropy", 0.05, 0, 2.0),  # below all that was measured
        ("entropy", 0.9, 0, 0.5),  # and above
        ("entropy", 0.0, 0, math.inf),
        ("learned", 0.7, 1, 0.8),
    ],
)
def test_the_nearest_threshold_by_hand(rule, budget, seed, expected):
    never = Point("entropy", 0, 0.01, math.inf, 0.0)
    assert Calibration([*POINTS, never]).nearest(rule, budget, seed) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rule", "budget", "seed", "message"),
    [
        ("margin", 0.2, 0, r"rule 'margin' \(seed 0\) is not calibrated"),
        ("learned", 0.2, 2, r"rule 'learned' \(seed 2\) is not calibrated"),
        ("entropy", 20, 0, r"teacher_budget must be in \[0, 1\], got 20"),
    ],
)
def test_nothing_is_near_where_nothing_is_known(rule, budget, seed, message):
    with pytest.raises(WheelsError, match=message):
        Calibration(POINTS).nearest(rule, budget, seed)


def test_the_levels_fall_with_the_use():
    noise = [
        Point("entropy", 0, 0.4, 1.2, 0.41),
        Point("entropy", 0, 0.3, 0.9, 0.28),
        Point("entropy", 0, 0.0, math.inf, 0),
    ]
    assert Calibration([*POINTS, *noise]).levels("entropy") == ((0.12, 2.0), (0.28, 0.9), (0.5, 0.5))
    with pytest.raises(
        WheelsError, match=r"'learned' \(seed 1\) is calibrated at fewer than two uses .* how far to move$"
    ):
        Calibration(POINTS).levels("learned", 1)


def test_it_comes_back_from_its_file(tmp_path):
    never = Point("margin", 0, 0.1, math.inf, 0.0)
    kept = Calibration([*POINTS, never], "multi30k:validation", "ab12", 1014, "2025-01-31")
    path = kept.save(tmp_path / "calibration.json")
    assert Calibration.load(path) == kept
    assert json.loads(path.read_text())["points"][0]["threshold"] == 2.0
    assert Calibration.load(tmp_path / "none.json") == Calibration()


def one_point(**changed: object) -> str:
    point = {"rule": "entropy", "seed": 0, "budget": 0.1, "threshold": 1.0, "use": 0.1} | changed
    return json.dumps({"format": 1, "points": [point], "data": "", "data_digest": None, "rows": 1, "date": ""})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "calibration.json:1: not JSON"),
        ("[]", "calibration.json: must be a JSON object with named fields, got a list"),
        ('{"format": 3}', "calibration.json: not a calibration of format 1; remove it, and calibrate the model again"),
        ('{"format": 2}', "calibration.json: not a calibration of format 1"),
        ('{"format": 1}', r"calibration.json: damaged \('points'\); remove it, and calibrate"),
        (one_point(threshold=math.nan), "'threshold' is not as this version writes it"),
        (one_point(threshold="1"), "'threshold' is not as this version writes it; it is damaged"),
        (one_point(use=-0.5), r"calibration.json: use must be at least 0, got -0\.5; it is damaged"),
        (one_point(budget=20), "calibration.json: budget must be at most 1, got 20; it is damaged"),
        (one_point(seed=0.5), "'seed' is not as this version writes it"),
        ('{"format": 1, "points": [{"rule": "entropy"}]}', r"calibration.json: .*missing 4 .*it is damaged"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content, message):
    path = tmp_path / "calibration.json"
    path.write_text(content)
    with pytest.raises(WheelsError, match=message):
        Calibration.load(path)


def test_thresholds_stand_together_only_where_they_were_measured_alike():
    assert Calibration(list(POINTS)).others([("learned", 1, 0.2), ("entropy", 0, 0.9)]) == [
        point for point in POINTS if point.key != ("learned", 1, 0.2)
    ]
    kept = Calibration([], "a", "ab12", 8, "", "cd34", {"max_new_tokens": 6, "dtype": "float32", "limit": 8})
    kept.check_alike(replace(kept, data="renamed", date="later", config=kept.config | {"limit": None}))
    Calibration([], "a", "ab12", 8).check_alike(kept)  # of a version that kept less
    for name, value in {"data_digest": "b", "rows": 7, "model_digest": "e", "max_new_tokens": 7, "dtype": "x"}.items():
        other = {name: value} if hasattr(kept, name) else {"config": kept.config | {name: value}}
        with pytest.raises(WheelsError, match=f"holds thresholds that were measured with {name} .*, not {value!r}"):
            kept.check_alike(replace(kept, **other))
