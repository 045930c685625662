"""Tasks from files, from the Hub's own loader, and from the embedded corpora; every bad row has its own words."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wheels.data.tasks import Row, Task, digest, load_rows, load_task
from wheels.errors import WheelsError

GOOD = {"source": "Guten Tag", "target": "Good day"}


def write(path: Path, rows: list[Any], end: str = "\n") -> Path:
    data = "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_are_read_plain_and_compressed(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [GOOD, {"source": "Ä\u2028b", "target": "c", "more": 1}])
    assert load_rows(path) == [Row("Guten Tag", "Good day"), Row("Ä\u2028b", "c")]
    assert load_rows(str(path), limit=1) == [Row("Guten Tag", "Good day")]


def test_blank_lines_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    line = json.dumps(GOOD).encode()
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n  \n" + line)
    assert load_rows(tmp_path / "a.jsonl") == [Row("Guten Tag", "Good day")] * 2


def test_columns_are_mapped_by_name_and_by_dotted_name(tmp_path: Path) -> None:
    nested = {"translation": {"de": "Tag", "en": "day"}, "a.b": "whole", "a": {"b": "inner", "c": "x"}}
    path = write(tmp_path / "a.jsonl", [nested])
    assert load_rows(path, source="translation.de", target="translation.en") == [Row("Tag", "day")]
    assert load_rows(path, source="a.b", target="a.c") == [Row("whole", "x")]


def test_targets_may_be_missing_where_none_is_needed(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", [{"source": "a"}, {"source": "b", "target": None}, {"source": "c", "target": "d"}]
    )
    assert load_rows(path, require_target=False) == [Row("a", ""), Row("b", ""), Row("c", "d")]
    assert load_task(path, require_target=False).test[0] == Row("a", "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"source": "a", "target"}', r"a\.jsonl:3: not JSON: .* at column 25"),
        (b"[1]", r"a\.jsonl:3: must be a JSON object with named fields, got a list"),
        (b'"text"', r"a\.jsonl:3: must be a JSON object .* got a string"),
        (b"[" * 100_000, r"a\.jsonl:3: not JSON"),
        (b"1" * 5_000, r"a\.jsonl:3: not JSON that can be read"),
        (b'{"sorce": "a", "target": "b"}', r"a\.jsonl:3: no column 'source'.*: sorce, target; did you mean 'sorce'\?"),
        (
            b'{"source": "a", "translation": {"en": "b"}}',
            r"3: no column 'target'; the columns are: source, translation\.en",
        ),
        (b"{}", r"a\.jsonl:3: no column 'source'; the columns are: none"),
        (b'{"source": 7, "target": "b"}', r"a\.jsonl:3: 'source' must be a string, got a number"),
        (b'{"source": "a", "target": null}', r"a\.jsonl:3: 'target' must be a string, got null"),
        (b'{"source": "a", "target": ["b"]}', r"a\.jsonl:3: 'target' must be a string, got a list"),
        (b'{"source": "a", "target": {"b": "c"}}', r"a\.jsonl:3: 'target' must be a string, got an object"),
        (b'{"source": " \\n", "target": "b"}', r"a\.jsonl:3: 'source' is empty"),
        (b'{"source": "a", "target": ""}', r"a\.jsonl:3: 'target' is empty"),
        (b'{"source": "a\\ud800", "target": "b"}', r"a\.jsonl:3: half a surrogate pair, '\\ud800', is no text"),
        (b'{"source": "a", "target": "b", "n": NaN}', r"a\.jsonl:3: not JSON that can be read: NaN is no number"),
        (b'{"source": "caf\xe9", "target": "b"}', r"a\.jsonl:3: not UTF-8: byte 0xe9 at offset 62 of the file"),
    ],
)
def test_bad_rows_are_named_with_file_line_and_field(tmp_path: Path, line: bytes, message: str) -> None:
    good = json.dumps(GOOD).encode()
    path = tmp_path / "a.jsonl"
    path.write_bytes(good + b"\n\n" + line + b"\n")
    with pytest.raises(WheelsError, match=message) as caught:
        load_rows(path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert load_rows(path, limit=1) == [Row("Guten Tag", "Good day")]
    if "not UTF-8" in message:
        data = path.read_bytes()
        assert data[62] == 0xE9
        path.write_bytes(b"\xef\xbb\xbf" + data)
        with pytest.raises(WheelsError, match="at offset 65 of the file"):
            load_rows(path)


def test_files_that_are_empty_missing_or_no_gzip(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"\n \n")
    with pytest.raises(WheelsError, match=r"empty\.jsonl: nothing in it"):
        load_rows(tmp_path / "empty.jsonl")
    with pytest.raises(WheelsError, match=r"none\.jsonl: no such file"):
        load_rows(tmp_path / "none.jsonl")
    with pytest.raises(WheelsError, match="cannot be read: Is a directory"):
        load_rows(tmp_path)
    (tmp_path / "bad.jsonl.gz").write_bytes(json.dumps(GOOD).encode())
    with pytest.raises(WheelsError, match=r"bad\.jsonl\.gz: not a whole gzip file.*Not a gzipped file"):
        load_rows(tmp_path / "bad.jsonl.gz")
    whole = write(tmp_path / "cut.jsonl.gz", [GOOD] * 1000).read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-9])
    with pytest.raises(WheelsError, match=r"cut\.jsonl\.gz: not a whole gzip file"):
        load_rows(tmp_path / "cut.jsonl.gz")
    (tmp_path / "torn.jsonl.gz").write_bytes(whole[:20] + b"\xff" * 20 + whole[40:])
    with pytest.raises(WheelsError, match=r"torn\.jsonl\.gz: not a whole gzip file"):
        load_rows(tmp_path / "torn.jsonl.gz")
    for limit in (0, -3):
        with pytest.raises(WheelsError, match=f"limit must be at least 1 row, got {limit}"):
            load_task("embedded-translation", limit=limit)


def test_a_folder_has_the_splits_that_it_has(tmp_path: Path) -> None:
    folder = tmp_path / "talk"
    folder.mkdir()
    with pytest.raises(WheelsError, match=r"talk: none of train, validation and test \(\.jsonl, .*csv"):
        load_task(folder)
    write(folder / "train.jsonl.gz", [GOOD] * 3)
    write(folder / "test.jsonl", [GOOD])
    task = load_task(str(folder), limit=2)
    assert (task.name, len(task.train), len(task.test), set(task.splits)) == ("talk", 2, 1, {"train", "test"})
    assert (task.prompt, task.metrics) == ("{source}", ("bleu", "chrf"))
    with pytest.raises(WheelsError, match=r"talk has no validation split, only: train, test; add validation\.jsonl"):
        _ = task.validation
    with pytest.raises(WheelsError, match=r"split must be one of .* got 'dev'"):
        task.rows("dev")
    write(folder / "train.jsonl", [GOOD])
    with pytest.raises(WheelsError, match=r"both train\.jsonl and train\.jsonl\.gz are there; remove one"):
        load_task(folder)


def test_a_single_file_is_any_split(tmp_path: Path) -> None:
    task = load_task(write(tmp_path / "talk.jsonl.gz", [GOOD]))
    assert task.name == "talk"
    (tmp_path / "talks").mkdir()
    assert load_task(write(tmp_path / "talks" / "test.jsonl", [GOOD])).name == "talks/test"
    assert task.train is task.validation is task.test is task.rows("test")


@pytest.mark.parametrize("spec", ["nowhere", "embedded-translatoin", "embedded-translation:fr", "hub:"])
def test_what_is_not_there_is_named(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = {
        "nowhere": "nowhere: no such file or folder .*embedded-translation",
        "embedded-translatoin": "did you mean 'embedded-translation'",
        "embedded-translation:fr": "must be one of embedded-translation, got 'embedded-translation:fr'",
        "hub:": "'hub:' names no data set; write hub:NAME",
    }
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WheelsError, match=messages[spec]):
        load_task(spec)


def test_the_embedded_task_loads_by_name() -> None:
    task = load_task("embedded-translation", limit=20)
    assert {split: len(rows) for split, rows in task.splits.items()} == {"train": 20, "validation": 20, "test": 20}
    assert (task.name, task.metrics[0]) == ("embedded-translation", "bleu")
    assert load_task("embedded-translation", limit=10).train == task.train[:10]


def test_the_digest_sees_every_letter_and_where_it_stands() -> None:
    splits = {"train": [Row("ab", "c")], "test": [Row("d", "e")]}
    same = {"test": [Row("d", "e")], "train": [Row("ab", "c")]}
    assert digest(splits) == digest(same) == Task("t", splits).digest
    others = [
        {"train": [Row("a", "bc")], "test": [Row("d", "e")]},
        {"train": [Row("d", "e")], "test": [Row("ab", "c")]},
        {"train": [Row("ab", "c")]},
        {"train": [Row("ab", "c"), Row("d", "e")]},
        {"train": [Row("ab", "c", ("f",))], "test": [Row("d", "e")]},
    ]
    assert len({digest(other) for other in [splits, *others]}) == 6
    assert len(digest(splits)) == 16 and int(digest(splits), 16) >= 0


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "Translate:",
        "{sauce}",
        "{source} {",
        "{} {source}",
        "{0}",
        "{source:>2000000000}",
        "{source[0]}",
        "{source.__class__}",
        "{source!r}",
        "{source:{source}}",
        "{source:d}",
        "{{source}}",
        "{source}" + "x" * 10_000,
    ],
)
def test_prompts_without_a_source_are_refused(prompt: str) -> None:
    with pytest.raises(WheelsError, match=r"prompt must (contain \{source\} and|have at most 10,000)"):
        Task("t", {"test": [Row("a", "b")]}, prompt=prompt)


def test_prompts_and_metrics_are_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [GOOD])
    task = load_task(path, prompt="{{de}} {source} =>", metrics=["exact"])
    assert task.prompt.format(source="x") == "{de} x =>" and task.metrics == ("exact",)
    with pytest.raises(WheelsError, match=r"metric must be one of bleu, .* got 'BLEU'"):
        load_task(path, metrics=["BLEU"])
    with pytest.raises(WheelsError, match="metrics must name at least one of bleu"):
        load_task(path, metrics=[])


def test_importing_data_is_light() -> None:
    heavy = ("torch", "datasets", "sacrebleu", "numpy")
    code = f"import sys, wheels.data.tasks, wheels.data.corpus; print([m for m in {heavy} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_splits_of_its_own(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text('{"source": "a", "target": "b"}\n')
    load_task(tmp_path).check_splits(["train", "test"])
    with pytest.raises(WheelsError, match="has no validation split, only: train, test"):
        load_task(tmp_path).check_splits(["train", "validation"])
    with pytest.raises(WheelsError, match="is one file; give a folder with train, test rows of their own"):
        load_task(tmp_path / "train.jsonl").check_splits(["train", "test"])
