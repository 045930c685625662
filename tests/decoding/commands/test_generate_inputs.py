"""`wheels generate`: which inputs are texts or rows, and which are refused by name."""

import gzip
import io
import json
import re
import sys

import pytest

from tests.decoding.commands.conftest import TEXTS, expected
from wheels.decoding.commands import inputs
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.errors import WheelsError

ROWS = "".join(json.dumps({"source": text, "n": 1}) + "\n" for text in TEXTS).encode()


@pytest.mark.parametrize("flags", [[], ["--input-format", "jsonl"]])
@pytest.mark.parametrize("name", [None, "rows.txt", "rows"])
def test_rows_are_known_by_their_content(call, pair, tmp_path, flags, name):
    if name is not None:
        (tmp_path / name).write_bytes(ROWS)
        flags = [*flags, "--input", str(tmp_path / name)]
    code, out, _ = call("--teacher-budget", "0.5", *flags, stdin=None if name else ROWS)
    assert (code, out.split("\n")) == (0, [*(trace.text for trace in expected(pair)), ""])


def test_rows_can_be_given_as_texts(call, pair):
    code, out, _ = call("--teacher-budget", "0.5", "--input-format", "text", stdin=b'{"source": "a"}\n[{"x"')
    traces = expected(pair, ['{"source": "a"}', '[{"x"'])
    assert (code, out.split("\n")) == (0, [*(trace.text for trace in traces), ""])


@pytest.mark.parametrize("text", ["[1] a b", "{a} b", "[a, b]", "a, b; c", '"a" b', "{ a", "[ 1 ]", "5", "PK a"])
def test_a_text_with_brackets_is_a_text(call, pair, text):
    code, out, _ = call("--teacher-budget", "0.5", stdin=text.encode())
    assert (code, out) == (0, expected(pair, [text])[0].text + "\n")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"de,en\na,b\n", "a.csv: a table .CSV.; convert it to .jsonl"),
        ("a.TSV", b"a\tb\n", "a.TSV: a table"),
        ("a.csv.gz", gzip.compress(b"a,b\n", mtime=0), "a.csv.gz: a table"),
        ("a.txt", b'"id";"source"\n1;a\n', "a.txt: a table"),
        (None, b"source,target\na,b\n", "standard input: a table"),
        (None, b'[{"source": "a"}, {"source": "b"}]', r"standard input: a JSON array; write one object a line \(jq"),
        ("a.json", b'[\n  {"source": "a"}\n]\n', "a.json: a JSON array"),
        ("a.txt", b'["a", "b"]', "a.txt: a JSON array"),
        ("a.json", b'{\n  "source": "a"\n}\n', "a.json: a JSON object over several lines; write one object a line"),
        ("a.json", b'{"rows": [\n{"source": "a"}\n]}\n', "a.json: a JSON object over several lines"),
        ("a.jsonl", b'[{"source": "a"}]', "a.jsonl: a JSON array"),
        ("a.jsonl", b"source,target\na,b", "a.jsonl:1: not JSON"),
        ("a.txt", b'{"text": "a"}\n', "a.txt:1: no column 'source'; the columns are: text"),
        ("a.txt", b'{"source": "a"}\na b\n', "a.txt:2: not JSON"),
        ("a.txt", gzip.compress(b"a", mtime=0), r"a.txt: gzip, not lines of text; end its name in .gz, or unpack it"),
        (None, gzip.compress(b"a", mtime=0), "standard input: gzip, not lines of text"),
        ("a.xlsx", b"PK\x03\x04\x14\0", "a.xlsx: a zip archive .as .xlsx, .docx and .npz are., not lines of text"),
        ("a.gz", gzip.compress(b"PK\x03\x04", mtime=0), "a.gz: a zip archive"),
        ("a.parquet", b"PAR1\x15\x04", "a.parquet: Parquet, not lines of text; convert it to .jsonl"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1", "a.xls: an old Office file"),
        ("a.txt", "a b".encode("utf-16"), "a.txt: UTF-16, not lines of text; save it as UTF-8"),
        ("a.txt", "a b".encode("utf-16-le"), "a.txt:1: a NUL at offset 1 of the file: not lines of text in UTF-8"),
        ("a.txt", "a b".encode("utf-32"), "a.txt: UTF-16, not lines"),
        ("a.bin", b"a\nb\0c\n", "a.bin:2: a NUL at offset 3 of the file"),
    ],
)
def test_what_is_no_text_is_refused_by_name(call, tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    if name is not None:
        (tmp_path / name).write_bytes(content)
    code, out, err = call(*(["--input", name] if name else []), stdin=None if name else content)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.match(f"error: {message}", err), err


class Endless(io.RawIOBase):
    """A pipe without an end, of one line again and again."""

    def __init__(self, line: bytes) -> None:
        self.line = line

    def readline(self, size: int = -1, /) -> bytes:
        return self.line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"source": "a"\n', "a JSON object over several lines"),
        (b'{"source": "a"}\n', "more than 1,000 texts or 1 MiB, which is what one run holds; give it in parts"),
        (b"a\n", "more than 1,000 texts or 1 MiB"),
        (b"a" * 10_000 + b"\n", "more than 1,000 texts or 1 MiB"),
        (b"a" * (1 << 20) + b"\n", "more than 1,048,576 characters"),
        (b"\n", "more than 100,000 blank lines in a row"),
    ],
)
def test_a_pipe_without_an_end_ends_in_one_line(monkeypatch, line, message):
    monkeypatch.setattr(inputs, "MOST_TEXTS", 1000)
    monkeypatch.setattr(inputs, "MOST_CHARACTERS", 1 << 20)
    monkeypatch.setattr(sys, "stdin", type("Pipe", (), {"buffer": Endless(line), "isatty": lambda self: False})())
    with pytest.raises(WheelsError, match=f"standard input(:100001|:1)?: {message}"):
        inputs.read_sources(GenerateConfig())
