"""Items that are made once: they count where they were made from the same and are whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wheels.errors import WheelsError
from wheels.runs import JSON, LINES, Form, cached, chunks, is_whole, last_whole, seal
from wheels.runs.tensors import STATE

ORIGIN = {"model": "abc", "threshold": math.inf, "rows": [1, 2]}
VALUES: dict[str, tuple[Form[Any], Any]] = {
    "json": (JSON, {"text": "ü\u2028\n", "loss": math.inf, "none": None}),
    "lines": (LINES, [{"text": "a\u2028\x85\nb"}, {"text": "", "n": [1, 0.1]}]),
    "state": (STATE, {"weights": torch.arange(3), "steps": 7}),
}


class Maker:
    """Makes a value, and counts how often."""

    def __init__(self, value: Any) -> None:
        self.value, self.made = value, 0

    def __call__(self) -> Any:
        self.made += 1
        return self.value


@pytest.mark.parametrize("name", VALUES)
def test_an_item_is_made_once_and_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    form, value = VALUES[name]
    make, path = Maker(value), tmp_path / "deep" / f"item{form.suffix}"
    first = cached(path, ORIGIN, make, form)
    content = path.read_bytes()
    again = cached(path, dict(reversed(ORIGIN.items())), make, form)
    assert make.made == 1 and form.write(first) == form.write(again) == form.write(value) == content


@pytest.mark.parametrize("other", [{**ORIGIN, "model": "abd"}, {**ORIGIN, "more": None}, {"model": "abc"}, None, []])
def test_an_item_of_another_origin_is_made_again(tmp_path: Path, other: Any) -> None:
    make = Maker(1)
    for number, origin in enumerate((ORIGIN, other, ORIGIN), 1):
        cached(tmp_path / "a.json", origin, make)
        assert make.made == number


def test_what_is_not_json_is_as_json_has_it(tmp_path: Path) -> None:
    make = Maker([(1, 2)])
    for origin in ({"budgets": (0.1, 0.2)}, {"budgets": [0.1, 0.2]}, {"budgets": (0.1, 0.2)}):
        assert cached(tmp_path / "a.json", origin, make) == [[1, 2]]
    assert make.made == 1


def flip(file: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "empty": lambda file: file.write_bytes(b""),
    "flipped": flip,
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\n"),
    "other": lambda file: file.write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", VALUES)
def test_a_damaged_item_is_said_and_made_again(
    tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    form, value = VALUES[name]
    make, path = Maker(value), tmp_path / f"item{form.suffix}"
    cached(path, None, make, form)
    whole = path.read_bytes()
    DAMAGES[damage](path)
    cached(path, None, make, form)
    assert (make.made, path.read_bytes()) == (2, whole)
    assert f"{path} is damaged; it is made again" in caplog.text
    cached(path, None, lambda: pytest.fail("made a third time"), form)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"made_from": null}', '{"made_from": null, "digests": {}}'])
def test_an_item_whose_seal_is_damaged_is_made_again(tmp_path: Path, content: str) -> None:
    make = Maker(1)
    cached(tmp_path / "a.json", None, make)
    (tmp_path / "a.json.seal").write_text(content)
    cached(tmp_path / "a.json", None, make)
    assert make.made == 2


@pytest.mark.parametrize("gone", ["item.json", "item.json.seal"])
def test_an_item_that_was_deleted_or_is_not_sealed_is_made_again(
    tmp_path: Path, gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    make = Maker(1)
    cached(tmp_path / "item.json", None, make)
    (tmp_path / gone).unlink()
    cached(tmp_path / "item.json", None, make)
    assert make.made == 2 and not caplog.text


def test_a_kill_between_an_item_and_its_seal_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even where an older item of another origin stood there."""
    cached(tmp_path / "a.json", "old", Maker(1))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("wheels.runs.kept.seal", interrupt)
        cached(tmp_path / "a.json", "new", Maker(2))
    assert (tmp_path / "a.json").read_text() == "2\n"
    assert not is_whole(tmp_path / "a.json", "old") and not is_whole(tmp_path / "a.json", "new")
    assert not caplog.text, "nothing was damaged"


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_long_job_goes_on_in_the_middle(tmp_path: Path) -> None:
    made: list[int] = []

    def make(number: int) -> list[int]:
        if len(made) == 2:
            made.append(-1)
            raise KeyboardInterrupt
        made.append(number)
        return [number]

    with pytest.raises(KeyboardInterrupt):
        list(chunks(tmp_path, ORIGIN, range(4), make))
    assert list(chunks(tmp_path, ORIGIN, range(4), make)) == [[0], [1], [2], [3]]
    assert made == [0, 1, -1, 2, 3]
    assert list(chunks(tmp_path, ORIGIN, range(1, 5, 2), make)) == [[1], [3]]
    (tmp_path / "00001.json").rename(tmp_path / "00002.json")
    (tmp_path / "00001.json.seal").rename(tmp_path / "00002.json.seal")
    list(chunks(tmp_path, ORIGIN, range(4), make))
    assert made[5:] == [1, 2], "a part that stands in another's place is not taken for it"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "points").write_text("a file")
    with pytest.raises(WheelsError, match=r"cannot write .*points/a.json"):
        cached(tmp_path / "points" / "a.json", None, lambda: pytest.fail("made for nothing"))


def checkpoint(folder: Path, number: int) -> Path:
    place = folder / f"checkpoint-{number}"
    (place / "deep").mkdir(parents=True)
    (place / "model.bin").write_bytes(bytes(100))
    (place / "deep" / "state.json").write_text("{}")
    return place


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert last_whole(tmp_path / "none") is None
    places = [checkpoint(tmp_path, number) for number in (2, 9, 10, 11)]
    for place in places[:3]:
        seal(place, None)
    (tmp_path / "checkpoint-x").mkdir()
    assert last_whole(tmp_path) == places[2] and not places[3].exists(), "the last was cut short"
    (places[2] / "deep" / "state.json").write_text("[]")
    assert last_whole(tmp_path) == places[1] and not places[2].exists()
    assert "checkpoint-10 is damaged" in caplog.text
    (places[1] / "more").write_text("")
    (places[0] / "model.bin").unlink()
    assert last_whole(tmp_path) is None and (tmp_path / "checkpoint-x").exists()
