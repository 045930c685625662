"""`wheels generate`: which inputs are texts or rows, and which are refused by name."""

import gzip
import io
import json
import re
import sys

import pytest

from tests.decoding.commands.conftest import TEXTS, expected
from wheels.decoding import streaming
from wheels.decoding.commands import generate, inputs
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.errors import WheelsError

ROWS = "".join(json.dumps({"source": text, "n": 1}) + "\n" for text in TEXTS).encode()


@pytest.mark.parametrize("flags", [[], ["--input-format", "json"]])
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
        ("a.csv", b"de,en\na,b\n", "a.csv:2: no column 'source'; the columns are: de, en"),
        ("a.TSV", b"a\tb\n", "a.TSV: nothing in it"),
        ("a.csv.gz", gzip.compress(b"a,b\nc,d", mtime=0), "a.csv.gz:2: no column 'source'; the columns are: a, b"),
        ("a.txt", b'"id";"source"\n1;a\n', "a.txt: a table .CSV., as it seems; say so by its name ..csv"),
        (None, b"source,target\na,b\n", "standard input: a table"),
        (
            None,
            b'[{"source": "a"}, {"source": "b"}]',
            "standard input: a list in JSON, as it seems; say so .* or by --input-format",
        ),
        ("a.json", b'[\n  {"source": "a"},\n  5]\n', "a.json: row 2: must be a JSON object .*, got a number"),
        ("a.txt", b'["a", "b"]', "a.txt: a list in JSON, as it seems"),
        ("a.json", b'{\n  "source": "a"\n}\n', "a.json: a JSON object over several lines; write one object a line"),
        ("a.json", b'{"rows": [\n{"source": "a"}\n]}\n', "a.json: a JSON object over several lines"),
        ("a.jsonl", b'[{"source": "a"}', "a.jsonl:1: not JSON: .* at column 17"),
        ("a.jsonl", b"source,target\na,b", "a.jsonl:1: not JSON"),
        ("a.txt", b'{"text": "a"}\n', "a.txt:1: no column 'source'; the columns are: text"),
        ("a.txt", b'{"source": "a"}\na b\n', "a.txt:2: not JSON"),
        (
            "a.txt",
            gzip.compress(gzip.compress(b"a", mtime=0), mtime=0),
            "a.txt: gzip, not lines of text; give it as a file, or",
        ),
        (None, gzip.compress(b"a", mtime=0), "standard input: gzip, not lines of text"),
        ("a.xlsx", b"PK\x03\x04\x14\0", "a.xlsx: a zip archive .as .xlsx, .docx and .npz are., not lines of text"),
        ("a.gz", gzip.compress(b"PK\x03\x04", mtime=0), "a.gz: a zip archive"),
        ("a.parquet", b"PAR1\x15\x04", "a.parquet: not a whole Parquet file: .*; write it again"),
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

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        count = max(1, len(buffer) // len(self.line))
        parts = (self.line * count)[: len(buffer)]
        buffer[: len(parts)] = parts
        self.line = self.line[len(parts) % len(self.line) :] + self.line[: len(parts) % len(self.line)]
        return len(parts)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"source": "a"\n', "a JSON object over several lines"),
        (b'{"source": "a"}\n', "more than 1,000 texts or 1 MiB, which is what one run holds; give a file, or parts"),
        (b"a\n", "more than 1,000 texts or 1 MiB"),
        (b"a" * 10_000 + b"\n", "more than 1,000 texts or 1 MiB"),
        (b"a" * ((1 << 20) + 1) + b"\n", "more than 1,048,576 characters"),
        (b"\n", "more than 100,000 blank lines in a row"),
    ],
)
def test_a_pipe_without_an_end_ends_in_one_line(monkeypatch, line, message):
    monkeypatch.setattr(inputs, "MOST_TEXTS", 1000)
    monkeypatch.setattr(inputs, "MOST_CHARACTERS", 1 << 20)
    monkeypatch.setattr(sys, "stdin", type("Pipe", (), {"buffer": Endless(line), "isatty": lambda self: False})())
    with pytest.raises(WheelsError, match=f"standard input(:100001|:1)?: {message}"):
        inputs.read_sources(GenerateConfig())


@pytest.mark.parametrize("flags", [[], ["--temperature", "1.5", "--seed", "3"]])
def test_a_file_is_written_in_blocks_as_if_at_once(call, tmp_path, monkeypatch, flags):
    (tmp_path / "a.csv").write_text("source\n" + "".join(f"{text}\n" for text in TEXTS * 3))
    flags = ["--teacher-budget", "0.5", "--format", "json", "--batch-size", "1", *flags]
    flags += ["--input", str(tmp_path / "a.csv")]
    lines = [[json.loads(line) | {"seconds": 0} for line in call(*flags)[1].splitlines()]]
    blocks = []
    prepare = streaming.prepare_sequences
    monkeypatch.setattr(streaming, "BLOCK", 4)
    monkeypatch.setattr(
        streaming,
        "prepare_sequences",
        lambda pair, block, *a, **k: blocks.append(len(block)) or prepare(pair, block, *a, **k),
    )
    lines.append([json.loads(line) | {"seconds": 0} for line in call(*flags)[1].splitlines()])
    assert lines[0] == lines[1] and len(lines[0]) == 9
    assert blocks == [4, 4, 1]


def test_online_mode_lets_all_end_after_each_part_and_goes_on_from_what_was_spent(call, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("".join(f"{text}\n" for text in TEXTS * 3))
    flags = ["--budget-mode", "online", "--teacher-budget", "0.5", "--input", str(tmp_path / "a.txt"), "--quiet"]
    parts, write = [], generate.in_order

    def seen(pair, sources, method, params, *, spent, **settings):
        parts.append((params.first, dict(spent)))
        return write(pair, sources, method, params, spent=spent, **settings)

    monkeypatch.setattr(generate, "PART", 4)
    monkeypatch.setattr(generate, "in_order", seen)
    code, out, _ = call(*flags)
    assert (code, len(out.splitlines())) == (0, 9)
    assert [first for first, _ in parts] == [0, 4, 8] and parts[0][1] == {}
    (calls, tokens), (more, of_more) = (spent[0.5] for _, spent in parts[1:])
    assert 0 < calls < tokens and calls < more < of_more > tokens


def test_parts_of_a_file_have_one_summary_and_their_own_numbers(call, tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("\n".join([*TEXTS, "a " * 80, *TEXTS]))
    monkeypatch.setattr(streaming, "BLOCK", 2)
    output = ["--teacher-budget", "0", "--output", str(tmp_path / "out"), "--batch-size", "1"]
    code, _, err = call("--input", str(path), *output)
    assert (code, (tmp_path / "out").exists()) == (2, False)
    assert re.match("error: input 4 has 81 tokens", err)
    code, _, err = call("--input", str(path), *output, "--on-error", "skip")
    assert code == 0 and len((tmp_path / "out").read_text().splitlines()) == 7
    assert re.fullmatch(
        r"(3 of 7 texts are written already\n)?"
        r"skipped: input 4 has 81 .*\nwritten to .*\nteacher use 0.00 .asked 0, average.: 0 of .*\n",
        err,
    )


def test_a_file_is_read_to_its_end_before_the_work(call, tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(ROWS * 100 + b'{"source": 5}\n')
    monkeypatch.setattr(generate, "in_order", lambda *args, **kwargs: pytest.fail("the work began"))
    code, out, err = call("--input", str(tmp_path / "a.jsonl"))
    assert (code, out) == (2, "") and "a.jsonl:301: 'source' must be a string, got a number" in err


def test_a_file_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "MOST_TEXTS", 10)
    (tmp_path / "a.txt").write_text("a\n" * 1000)
    texts = inputs.read_sources(GenerateConfig(input=str(tmp_path / "a.txt")))
    assert len(texts) == 1000 and sum(1 for _ in texts) == 1000
    with pytest.raises(WheelsError, match="more than 10 texts or 256 MiB, which is what one run holds"):
        inputs.held(texts, "a.txt")


def test_rows_of_a_file_that_are_skipped_are_told_once(call, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"source": "a"}\n{"text": "b"}\n')
    flags = ["--teacher-budget", "0.5", "--input", str(path), "--on-error", "skip"]
    code, out, err = call(*flags)
    assert (code, len(out.splitlines()), err.count("rows left out")) == (0, 2, 1)
    assert err.startswith(f"{path}: 1 of 2 rows left out: 1 as {path}:2: no column 'source'; the columns are: text\n")
    code, out, err = call(*flags, "--source", "sauce")
    assert (code, out) == (2, "") and err.startswith(f"error: {path}:1: no column 'sauce'; the columns are: source")
