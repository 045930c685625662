import gzip
import io

import pytest

from wheels.data import lines
from wheels.data.lines import all_lines, open_text
from wheels.data.rows import load_rows
from wheels.errors import WheelsError


def read(content: bytes, most: int | None = None) -> list[tuple[int, str]]:
    return list(all_lines(io.BytesIO(content), "f", most))


def read_file(path) -> list[tuple[int, str]]:
    with open_text(path) as text:
        return list(all_lines(text.file, str(path), text.most))


def test_lines_have_their_numbers_without_the_byte_order_mark():
    assert read(b"\xef\xbb\xbfa\r\n\nb") == [(1, "a\r\n"), (2, "\n"), (3, "b")]
    assert read(b"\xef\xbb\xbf") == [(1, "")] and read(b"") == []


def test_a_packed_file_of_zeros_is_refused_within_its_first_line(tmp_path):
    with gzip.open(tmp_path / "a.jsonl.gz", "wb", compresslevel=1) as file:
        for _ in range(256):
            file.write(bytes(1 << 20))
    seen = (tmp_path / "a.jsonl.gz").stat().st_size
    assert seen < 4 << 20
    with pytest.raises(WheelsError, match=r"a.jsonl.gz:1: the line is longer than 16 MiB; give one text a line"):
        load_rows(tmp_path / "a.jsonl.gz")


def test_a_packed_file_of_many_lines_is_refused_beyond_its_ratio(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MOST_UNPACKED", 1 << 20)
    monkeypatch.setattr(lines, "MOST_RATIO", 100)
    line = b"a" * 999 + b"\n"
    (tmp_path / "a.gz").write_bytes(gzip.compress(line * 5000))  # to a 250th or less
    with pytest.raises(WheelsError, match=r"a.gz: more than 1 MiB of text; give it unpacked, or in parts"):
        read_file(tmp_path / "a.gz")
    monkeypatch.setattr(lines, "MOST_RATIO", 10_000)
    assert len(read_file(tmp_path / "a.gz")) == 5000


@pytest.mark.parametrize(
    ("content", "most", "message"),
    [
        (b"a\n" + b"x" * 101, None, "f:2: the line is longer than 0 MiB"),
        (b"a\n" + b"\n" * 51, None, "f:52: more than 50 blank lines in a row; remove them"),
        (b" \n" * 51, None, "f:51: more than 50 blank lines"),
        (b"abc\n" * 10, 39, "f: more than 0 MiB of text"),
    ],
)
def test_what_would_fill_the_memory_is_refused(monkeypatch, content, most, message):
    monkeypatch.setattr(lines, "LONGEST_LINE", 100)
    monkeypatch.setattr(lines, "MOST_BLANK", 50)
    with pytest.raises(WheelsError, match=message):
        read(content, most)


def test_what_is_just_within_the_limits_is_read(monkeypatch):
    monkeypatch.setattr(lines, "LONGEST_LINE", 100)
    monkeypatch.setattr(lines, "MOST_BLANK", 50)
    long = "x" * 99 + "\n"
    found = read(long.encode() + b"\n" * 50 + b"abc", most=153)
    assert (found[0], found[-1], len(found)) == ((1, long), (52, "abc"), 52)


def test_an_endless_file_ends_in_one_line():
    with pytest.raises(WheelsError, match="/dev/zero:1: the line is longer than 16 MiB"):
        read_file("/dev/zero")
