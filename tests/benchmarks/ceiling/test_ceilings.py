"""From the texts of each row to sets of calls."""

from __future__ import annotations

from wheels.benchmarks.ceiling.call_sets import Text
from wheels.benchmarks.ceiling.ceilings import Found, call_sets, choose, halved
from wheels.benchmarks.core.cell import PointKey

RIGHT, WRONG = "the cat sat on the mat", "a dog"


def found(*texts: tuple[tuple[int, ...], str], closed: bool = False) -> Found:
    return Found([Text(calls, 10, text, 0.0) for calls, text in texts], closed)


def test_of_texts_as_good_the_fewest_calls_are_chosen_in_whatever_order_they_were_found() -> None:
    row = found(((0, 1), RIGHT), ((3,), RIGHT), ((), WRONG), ((1, 2, 3), RIGHT))
    assert choose([row], [RIGHT], "rougeL", [1.0]) == {1.0: ([(3,)], 100.0)}


def test_a_call_is_made_in_the_row_where_it_helps() -> None:
    rows = [found(((), WRONG), ((0,), WRONG)), found(((), WRONG), ((5,), RIGHT))]
    chosen = choose(rows, [RIGHT, RIGHT], "chrf", [0.05, 0.01])
    assert chosen[0.05][0] == [(), (5,)] and chosen[0.01][0] == [(), ()]


def test_each_ceiling_has_a_target_of_its_own() -> None:
    rows = [found(((), "mat"), ((0,), RIGHT), ((1,), WRONG))]
    targets = {"ceiling-chrf": ("chrf", [RIGHT]), "imitation": ("chrf", [WRONG])}
    sets, halves = call_sets(rows, targets, [0.1])
    assert sets == {PointKey("ceiling-chrf", 0, 0.1): [(0,)], PointKey("imitation", 0, 0.1): [(1,)]}
    assert [half["value"] for half in halves] == [100.0, 100.0]
    assert halves[0]["half"] == 100.0 and halves[1]["half"] < 50.0, "the first two texts of three"


def test_only_rows_that_are_open_are_halved() -> None:
    texts = [((place,), str(place)) for place in range(5)]
    whole, part = halved([found(*texts, closed=True), found(*texts)])
    assert len(whole.texts) == 5 and [text.text for text in part.texts] == ["0", "1", "2"]
