"""Data sets that `datasets` loads: from folders, as no test reaches the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from wheels.data.hub import HubName
from wheels.data.tasks import Row, load_task
from wheels.errors import WheelsError

GOOD = {"source": "Guten Tag", "target": "Good day"}


def write(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def counted(count: int) -> datasets.Dataset:
    return datasets.Dataset.from_list([{"source": str(n), "target": "x", "n": n} for n in range(count)])


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    return tmp_path


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_hub_data_is_loaded_with_nested_columns(offline: Path, kind: str) -> None:
    folder = offline / "opus"
    folder.mkdir()
    rows = [{"translation": {"de": f"Tag {n}", "en": f"day {n}"}, "id": n} for n in range(3)]
    for split, count in {"train": 3, "dev": 2, "test": 1}.items():
        data = datasets.Dataset.from_list(rows[:count])
        data.to_json(folder / f"{split}.json") if kind == "json" else data.to_parquet(folder / f"{split}.parquet")
    task = load_task(f"hub:{folder}", source="translation.de", target="translation.en", limit=2)
    assert task.train == [Row("Tag 0", "day 0"), Row("Tag 1", "day 1")]
    assert (len(task.validation), len(task.test), task.name) == (2, 1, f"hub:{folder}")
    with pytest.raises(
        WheelsError, match=r"train row 1: no column 'de'; the columns are: id, translation\.de, translation\.en"
    ):
        load_task(f"hub:{folder}", source="de", target="en")
    with pytest.raises(WheelsError, match="train row 1: 'id' must be a string, got a number"):
        load_task(f"hub:{folder}", source="id", target="translation.en")


def test_hub_configurations_are_chosen_by_name(offline: Path) -> None:
    for config in ("de", "fr"):
        (offline / "multi" / config).mkdir(parents=True)
        write(offline / "multi" / config / "test.jsonl", [{"source": config, "target": "x"}])
    (offline / "multi" / "README.md").write_text(
        "---\nconfigs:\n- config_name: de\n  data_files: [{split: dev, path: de/test.jsonl}]\n"
        "- config_name: fr\n  data_files: [{split: test, path: fr/test.jsonl}]\n---\n"
    )
    assert load_task(f"hub:{offline / 'multi'}:fr").test == [Row("fr", "x")]
    assert load_task(f"hub:{offline / 'multi'}:de").splits == {"validation": [Row("de", "x")]}
    with pytest.raises(WheelsError, match=r"cannot be loaded: .*de.*fr"):
        load_task(f"hub:{offline / 'multi'}")


def test_hub_data_that_cannot_be_loaded_is_one_line(offline: Path) -> None:
    with pytest.raises(WheelsError, match="hub:nobody/nothing-at-all: cannot be loaded: ") as caught:
        load_task("hub:nobody/nothing-at-all")
    assert "\n" not in str(caught.value)
    (offline / "odd").mkdir()
    write(offline / "odd" / "extra.jsonl", [GOOD])
    (offline / "odd" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: [{split: extra, path: extra.jsonl}]\n---\n"
    )
    with pytest.raises(WheelsError, match="no rows in train, validation or test; the splits are: extra"):
        load_task(f"hub:{offline / 'odd'}")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("hub:squad", HubName("squad")),
        ("hub:openai/gsm8k:main", HubName("openai/gsm8k", "main")),
        ("hub:a/b:c@v1.0", HubName("a/b", "c", "v1.0")),
        ("hub:a/b@refs/convert/parquet", HubName("a/b", None, "refs/convert/parquet")),
        (
            "hub:a/b:c@r?train=train[:90%]&validation=train[90%:]+extra",
            HubName("a/b", "c", "r", {"train": "train[:90%]", "validation": "train[90%:]+extra"}),
        ),
    ],
)
def test_names_are_taken_apart(spec: str, expected: HubName) -> None:
    assert HubName.parse(spec) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hub:@main", "'hub:@main' names no data set; write hub:NAME, hub:NAME:CONFIGURATION or hub:NAME@REVISION"),
        ("hub:a/b@main:c", "hub:a/b@main:c: the configuration stands before the revision"),
        ("hub:a/b?dev=dev", "hub:a/b.dev=dev: split must be one of train, validation, test, got 'dev'"),
        ("hub:a/b?train", "write .SPLIT=SLICE&SPLIT=SLICE, such as"),
        ("hub:{folder}@main", "talk is a folder, which has no revisions; leave out @main"),
    ],
)
def test_names_that_say_nothing_are_refused(spec: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "talk").mkdir()
    with pytest.raises(WheelsError, match=message):
        HubName.parse(spec.format(folder=tmp_path / "talk"))


def test_everything_that_is_named_reaches_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(*given: Any, **more: Any) -> Any:
        asked.append((*given, more))
        return counted(3)

    monkeypatch.setattr(datasets, "load_dataset", load)
    task = load_task("hub:a/b:c@r?test=extra[:3]", limit=2)
    assert asked == [("a/b", "c", {"revision": "r", "split": "extra[:3]"})]
    assert task.splits == {"test": [Row("0", "x"), Row("1", "x")]}


def test_splits_are_made_of_slices(offline: Path) -> None:
    folder = offline / "talk"
    folder.mkdir()
    counted(10).to_parquet(folder / "train.parquet")
    counted(2).to_parquet(folder / "test.parquet")
    with pytest.raises(
        WheelsError, match=r"has no validation split, only: train, test; make one of another \(hub:.*10%"
    ):
        _ = load_task(f"hub:{folder}").validation
    task = load_task(f"hub:{folder}?train=train[:80%]&validation=train[80%:]&test=test")
    assert {split: len(rows) for split, rows in task.splits.items()} == {"train": 8, "validation": 2, "test": 2}
    assert [row.source for row in task.validation] == ["8", "9"]
    with pytest.raises(WheelsError, match=r"validation: cannot be loaded: .*nothing"):
        load_task(f"hub:{folder}?validation=nothing")


def test_what_save_to_disk_wrote_is_read(offline: Path) -> None:
    saved = datasets.DatasetDict(train=counted(4), valid=counted(2), extra=counted(1))
    saved.save_to_disk(offline / "whole")
    task = load_task(offline / "whole", limit=3)
    assert {split: len(rows) for split, rows in task.splits.items()} == {"train": 3, "validation": 2}
    counted(4).save_to_disk(offline / "one")
    assert len(load_task(offline / "one").test) == 4
    (offline / "one" / "state.json").write_text("{")
    with pytest.raises(WheelsError, match="one: cannot be loaded: ") as caught:
        load_task(offline / "one")
    assert "\n" not in str(caught.value)


def test_splits_without_rows_and_bad_rows_are_named(offline: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = offline / "talk"
    folder.mkdir()
    datasets.Dataset.from_list([GOOD, {"source": "a", "target": None}]).to_parquet(folder / "train.parquet")
    with pytest.raises(WheelsError, match="talk: train row 2: 'target' must be a string, got null"):
        load_task(f"hub:{folder}")
    assert load_task(f"hub:{folder}", bad_rows="skip").train == [Row("Guten Tag", "Good day")]
    assert "train: 1 of 2 rows left out: 1 as " in caplog.text
    with pytest.raises(WheelsError, match=r"test: cannot be loaded: .*no data"):
        load_task(f"hub:{folder}?test=train[2:]")
