"""Every format, read from files that the libraries write themselves; every bad form ends in one line."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from wheels.data import columnar, formats
from wheels.data.formats import read_records
from wheels.data.rows import Columns, Row, load_rows
from wheels.data.tasks import load_task
from wheels.errors import WheelsError

ROWS = [
    {"source": 'say "Tag", twice;\tor\nnot', "target": "Ä\u2028b, 日本"},
    {"source": "7", "target": "007"},
    {"source": "  spaces  ", "target": "'x'"},
]
"""Texts that need quotes in one format or another."""
NESTED = [{"de": "a", "pair": {"en": ["b", "c"], "n": n}, "n": n} for n in range(3)]
Writer = Callable[[Path], Any]


def dataset() -> datasets.Dataset:
    return datasets.Dataset.from_list(ROWS)


def frame() -> Any:
    return pytest.importorskip("pandas").DataFrame(ROWS)


def by_csv(path: Path, **dialect: Any) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["source", "target"], **dialect)
        writer.writeheader()
        writer.writerows(ROWS)


def stream(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


WRITERS: dict[str, tuple[str, Writer]] = {
    "datasets, json": ("a.json", lambda path: dataset().to_json(path, force_ascii=False)),
    "datasets, json list": ("a.json", lambda path: dataset().to_json(path, lines=False)),
    "json list with a mark": ("a.json", lambda path: path.write_text("\ufeff" + json.dumps(ROWS), encoding="utf-8")),
    "datasets, csv": ("a.csv", lambda path: dataset().to_csv(path)),
    "datasets, parquet": ("a.parquet", lambda path: dataset().to_parquet(path)),
    "datasets, arrow": ("a.arrow", lambda path: stream(path, dataset().data.table)),
    "pandas, csv with its index": ("a.csv", lambda path: frame().to_csv(path)),
    "pandas, csv with marks": ("a.csv", lambda path: frame().to_csv(path, index=False, encoding="utf-8-sig")),
    "pandas, semicolons, packed": ("a.csv.gz", lambda path: frame().to_csv(path, index=False, sep=";")),
    "pandas, tsv": ("a.tsv", lambda path: frame().to_csv(path, index=False, sep="\t")),
    "pandas, json list": ("a.json", lambda path: frame().to_json(path, orient="records")),
    "pandas, json lines, packed": ("a.jsonl.gz", lambda path: frame().to_json(path, orient="records", lines=True)),
    "pandas, parquet": ("a.parquet", lambda path: frame().to_parquet(path)),
    "pandas, feather": ("a.feather", lambda path: frame().to_feather(path)),
    "csv, windows line ends, all quoted": ("a.csv", lambda path: by_csv(path, quoting=csv.QUOTE_ALL)),
    "csv, unix line ends": ("a.csv", lambda path: by_csv(path, lineterminator="\n")),
    "pyarrow, parquet of small groups": ("x.bin", lambda path: parquet.write_table(table(), path, row_group_size=1)),
    "pyarrow, dictionaries": ("a.parquet", lambda path: parquet.write_table(encoded(), path, compression="gzip")),
    "pyarrow, arrow file": ("a.arrow", lambda path: feather.write_feather(table(), path, compression="uncompressed")),
    "pyarrow, arrow stream": ("cache", lambda path: stream(path, table())),
}


def table() -> pa.Table:
    return pa.Table.from_pylist(ROWS)


def encoded() -> pa.Table:
    columns = {name: pa.array([row[name] for row in ROWS]).dictionary_encode() for name in ("source", "target")}
    return pa.table(columns | {"time": pa.array([0, 1, 2], pa.timestamp("ns"))})


@pytest.mark.parametrize("name", WRITERS)
def test_what_the_libraries_write_is_read(tmp_path: Path, name: str) -> None:
    file, write = WRITERS[name]
    write(tmp_path / file)
    expected = [Row(row["source"], row["target"]) for row in ROWS]
    assert load_rows(tmp_path / file) == expected
    assert load_rows(tmp_path / file, limit=2) == expected[:2]
    task = load_task(tmp_path / file)
    assert (task.test, task.name) == (expected, "x.bin" if file == "x.bin" else Path(file).name.partition(".")[0])


@pytest.mark.parametrize("batch", [1, 2, 1024])
def test_nested_columns_are_reached_and_further_ones_left_unread(
    tmp_path: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columnar, "BATCH", batch)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in NESTED))
    parquet.write_table(pa.Table.from_pylist(NESTED), tmp_path / "a.parquet")
    feather.write_feather(pa.Table.from_pylist(NESTED), tmp_path / "a.feather")
    stream(tmp_path / "a.arrow", pa.Table.from_pylist(NESTED))
    for path in tmp_path.iterdir():
        assert load_rows(path, source="de", references="pair.en") == [Row("a", "b", ("c",))] * 3
        assert [record for _, record in read_records(path)] == NESTED
        with pytest.raises(WheelsError, match=r"1: 'pair.en' must be a string, got a list"):
            load_rows(path, source="de", target="pair.en")
        with pytest.raises(WheelsError, match=r"1: no column 'en'; the columns are: de, n, pair\.en, pair\.n"):
            load_rows(path, source="de", target="en")
    wanted = read_records(tmp_path / "a.parquet", wanted=["de", "pair.n"])
    assert next(wanted) == (f"{tmp_path / 'a.parquet'}: row 1", {"de": "a", "pair": {"en": ["b", "c"], "n": 0}})


def test_lines_of_text_are_sources(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffeins, zwei\n {zwei} \n")
    assert load_rows(tmp_path / "a.txt", require_target=False) == [Row("eins, zwei", ""), Row("{zwei}", "")]
    assert load_rows(tmp_path / "a.txt", source="text", require_target=False)[0] == Row("eins, zwei", "")
    with pytest.raises(WheelsError, match=r"a.txt:1: no column 'target'; the columns are: source .with 1 more bad row"):
        load_rows(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("eins\n\n \nzwei\n\n")
    with pytest.raises(WheelsError, match=r"a.txt:2: 'source' is empty; drop the row or fill it in .with 1 more"):
        load_rows(tmp_path / "a.txt", require_target=False)


def test_places_are_the_first_lines_of_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\n\nsource;target,;\n"a\n\nb";c;\n\n;;\n d;;x\n')
    found = list(read_records(tmp_path / "a.csv"))
    assert found == [
        (f"{tmp_path / 'a.csv'}:4", {"source": "a\n\nb", "target,": "c"}),
        (f"{tmp_path / 'a.csv'}:9", {"source": " d", "target,": ""}),
    ]


def test_a_document_of_a_million_letters_is_a_cell(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("source,target\n" + "a" * (1 << 20) + ",b\n")
    assert len(load_rows(tmp_path / "a.csv")[0].source) == 1 << 20


CSV = b"source,target\na,b\n"
BAD: dict[str, tuple[str, bytes, str]] = {
    "ragged, more": ("a.csv", CSV + b"a,b,c\n", r":3: 3 columns, the first line names 2 \(source, target\); put"),
    "ragged, fewer": ("a.tsv", b"source\ttarget\n\na\n", r":3: 1 columns, the first line names 2"),
    "ragged after a row of lines": ("a.csv", CSV + b'"a\nb",c\nd', r":5: 1 columns"),
    "quote never closed": ("a.csv", CSV + b'a,"b\nc,d\n', r":3: column 2: its quote is never closed; close it"),
    "quote within quotes": ("a.csv", CSV + b'"say "Tag" twice",b\n', r":3: column 1: text after the quote that ends"),
    "quote within quotes, later": ("a.csv", CSV + b'"a\n b","c"d\n', r":3: column 2: text after the quote that ends"),
    "carriage return": ("a.csv", CSV + b"a\rb,c\n", r":3: not a row of a table: new-line character"),
    "a name twice": ("a.csv", b"source,target, source\na,b,c\n", r":1: columns 1 and 3 are both 'source'; rename"),
    "no names": (
        "a.csv",
        b"Guten Tag,Good day\nHallo,Hello\n",
        r":2: no column 'source'; the columns are: Good day, G",
    ),
    "names alone": ("a.csv", b"source,target\n", r": nothing in it; it must hold rows"),
    "empty csv": ("a.csv", b"", r": nothing in it; it must hold rows"),
    "empty cell": ("a.csv", CSV + b"a, \n", r":3: 'target' is empty; drop the row or fill it in"),
    "utf-16 csv": ("a.csv", CSV.decode().encode("utf-16"), r": UTF-16, not lines of text; save it as UTF-8"),
    "latin-1 csv": ("a.csv", CSV + "ä,b".encode("latin-1"), r":3: not UTF-8: byte 0xe4 at offset 18 of the file"),
    "NUL": ("a.csv", CSV + b"a\0,b\n", r":3: a NUL at offset 19 of the file"),
    "cut gzip": ("a.csv.gz", gzip.compress(CSV * 99)[:-9], r": not a whole gzip file: Compressed file ended"),
    "gzip by name alone": ("a.jsonl.gz", b'{"source": "a"}', r": not a whole gzip file: Not a gzipped file"),
    "zip": ("a.csv", b"PK\x03\x04", r": a zip archive .as .xlsx.*export the table as .csv"),
    "list of texts": ("a.json", b'["a"]', r": row 1: must be a JSON object with named fields, got a string"),
    "list cut short": ("a.json", b'[{"source": "a"},\n{"sou', r":2: not JSON: .* at column 2"),
    "list of nothing": ("a.json", b"[]", r": nothing in it"),
    "list, bad row": ("a.json", b'[\n{"source": "a", "target": "b"},\n{}]', r": row 2: no column 'source'.*: none"),
    "list in utf-16": ("a.json", '[{"source": "a"}]'.encode("utf-16"), r": UTF-16, not lines"),
    "object over lines": (
        "a.json",
        b'{"source":\n"a"}',
        r": a JSON object over several lines; write one object a line",
    ),
    "columns of pandas": ("a.json", b'{"source": {"0": "a"}}', r":1: 'source' must be a string, got an object"),
    "empty json": ("a.json", b"", r": nothing in it"),
    "parquet by name alone": ("a.parquet", CSV, r": not Parquet, though its name says so"),
    "empty parquet": ("a.parquet", b"", r": empty, though its name says so"),
    "arrow by name alone": ("a.arrow", CSV, r": not Arrow, though its name says so"),
    "cut arrow": ("a.arrow", b"ARROW1\0\0\xff\xff\xff\xff", r": not a whole Arrow file: .*; write it again"),
    "cut stream": ("a.arrow", b"\xff\xff\xff\xff\x10\0\0\0abc", r": not a whole Arrow file: .*; write it again"),
    "cut parquet": ("a.parquet", b"PAR1abcdefghijklmnop", r": not a whole Parquet file: .*; write it again"),
    "packed parquet": ("a.parquet.gz", gzip.compress(b"PAR1"), r": packed twice: Parquet and Arrow have their own"),
    "feather of version 1": ("a.feather", b"FEA1abc", r": not Arrow, though its name says so"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_bad_is_one_line_with_file_row_and_column(tmp_path: Path, name: str) -> None:
    file, content, message = BAD[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(WheelsError, match=message) as caught:
        load_rows(tmp_path / file)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(tmp_path / file))


def as_parquet(path: Path, **columns: Any) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


def test_bad_values_of_parquet_are_named_with_row_and_column(tmp_path: Path) -> None:
    path, good = tmp_path / "a.parquet", ["a"] * 1500
    ends = pa.array([0, 2], pa.int32()).buffers()[1]
    broken = pa.Array.from_buffers(pa.string(), 1, [None, ends, pa.py_buffer(b"b\xff")])
    parquet.write_table(pa.table({"source": pa.chunked_array([pa.array(good), broken]), "target": [*good, "b"]}), path)
    with pytest.raises(WheelsError, match=r"a.parquet: row 1501: 'source' is not UTF-8: byte 0xff at offset 1$"):
        load_rows(path)
    assert len(load_rows(path, limit=1024)) == 1024
    values = {"a string, got null": [None, "b"], "a string, got a number": [7, 8], "a list": [["a"], ["b"]]}
    for told, column in values.items():
        as_parquet(path, source=["a", "b"], target=pa.array(column))
        with pytest.raises(WheelsError, match=rf"a.parquet: row 1: 'target' must be .*{told}"):
            load_rows(path)
    parquet.write_table(pa.Table.from_arrays([pa.array(["a"])] * 3, ["source", "target", "source"]), path)
    with pytest.raises(WheelsError, match=r"a.parquet: columns 1 and 3 are both 'source'; rename one"):
        load_rows(path)


def test_damage_in_the_middle_of_a_file_is_one_line(tmp_path: Path) -> None:
    path = as_parquet(tmp_path / "a.parquet", source=[os.urandom(20).hex()] * 5000, target=["b"] * 5000)
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    with pytest.raises(WheelsError, match=r"a.parquet: not a whole Parquet file: .*; write it again"):
        load_rows(path)


def test_a_list_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MOST_LIST", 1 << 20)
    (tmp_path / "a.json").write_text(json.dumps([{"source": "a" * (1 << 20)}]))
    with pytest.raises(WheelsError, match=r"a.json: a list in JSON of more than 1 MiB; write one object a line"):
        load_rows(tmp_path / "a.json")
    (tmp_path / "a.json.gz").write_bytes(gzip.compress((tmp_path / "a.json").read_bytes()))
    with pytest.raises(WheelsError, match=r"a.json.gz: a list in JSON of more than 1 MiB"):
        load_rows(tmp_path / "a.json.gz")


def test_rows_that_do_not_fit_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    lines = [{"source": "a", "target": "b"}, {"source": ""}, {"source": "a"}, {"source": "c", "target": ""}]
    lines.append({"source": "d"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(WheelsError, match=r"a.jsonl:2: 'source' is empty; .* \(with 3 more bad rows of 5\)$"):
        load_rows(path)
    with caplog.at_level("WARNING", logger="wheels"):
        assert load_rows(path, bad_rows="skip") == [Row("a", "b")]
    (told,) = caplog.messages
    assert told.startswith(f"{path}: 4 of 5 rows left out: 2 as {path}:3: no column 'target'; the columns are: source")
    assert f"; 1 as {path}:2: 'source' is empty" in told and f"; 1 as {path}:4: 'target' is empty" in told
    with pytest.raises(WheelsError, match=r"a.jsonl:1: no column 'text'.* \(with 4 more bad rows of 5\)$"):
        load_rows(path, source="text", bad_rows="skip")
    with pytest.raises(WheelsError, match="bad_rows must be one of stop, skip, got 'drop'"):
        load_rows(path, bad_rows="drop")


def test_rows_beyond_half_of_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("source,target\n" + "a,b\n" * 100)
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 12_000}[name])
    with pytest.raises(WheelsError, match=r"a.csv:\d+: \d+ rows fill 0 GiB, half of the memory; read fewer by --limit"):
        load_rows(tmp_path / "a.csv")
    assert len(load_rows(tmp_path / "a.csv", limit=20)) == 20


def test_references_and_rationales_have_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"source": "a", "target": "b", "more": ["c", "d"], "why": "e"}\n{"source": "a", "more": "f"}\n')
    found = load_rows(path, references="more", rationale="why")
    assert found == [Row("a", "b", ("c", "d"), "e"), Row("a", "f")]
    path.write_text('{"source": "a", "target": "b", "more": null}\n{"source": "a", "target": "b", "more": []}\n')
    assert load_rows(path, references="more") == [Row("a", "b")] * 2
    path.write_text('{"source": "a", "target": "b", "more": [1]}\n')
    with pytest.raises(WheelsError, match=r"a.jsonl:1: 'more' must be a text or a list of texts, got a list"):
        load_rows(path, references="more")
    with pytest.raises(WheelsError, match=r"a.jsonl:1: no column 'others'; the columns are: more, source, target"):
        load_rows(path, references="others")


def test_a_column_of_references_is_read_without_being_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"source": "a", "target": "b", "references": ["b", "c"]}\n{"source": "a", "target": "b"}\n')
    several, one = load_rows(path)
    assert (several, one) == (Row("a", "b", ("c",)), Row("a", "b"))
    assert (several.scored_against, one.scored_against) == (("b", "c"), "b")
    path.write_text('{"source": "a", "target": "b", "references": [{"page": 3}]}\n')
    assert load_rows(path) == [Row("a", "b")], "another kind of references"
    for name, rows in (("a.parquet", [{"references": ["c"]}]), ("b.parquet", [{}])):
        table = pa.Table.from_pylist([{"source": "a", "target": "b", "unread": 1} | row for row in rows])
        parquet.write_table(table, tmp_path / name)
        (_, record) = next(iter(read_records(tmp_path / name, wanted=Columns().names)))
        assert "unread" not in record
        assert load_rows(tmp_path / name) == [Row("a", "b", tuple(rows[0].get("references", ())))]


def test_reading_holds_one_batch_of_rows(tmp_path: Path) -> None:
    """A pipe of a table without an end is read row by row."""
    path = tmp_path / "pipe.csv"
    os.mkfifo(path)
    code = f"f = open({str(path)!r}, 'w')\nf.write('source\\n')\nwhile 1: f.write('a\\n')"
    writer = subprocess.Popen([sys.executable, "-c", code])
    try:
        assert load_rows(path, require_target=False, limit=3) == [Row("a", "")] * 3
    finally:
        writer.kill()
        writer.wait()
