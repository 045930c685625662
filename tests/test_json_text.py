import json
import math

import pytest

from wheels.errors import WheelsError
from wheels.files import read_json, read_object
from wheels.json_text import parse_json, parse_object

DAMAGED = {
    "empty": (b"", ":1: not JSON: Expecting value at column 1$"),
    "cut": (b'{\n"a": 1', ":2: not JSON: .* at column 7$"),
    "byte": (b'{"a": "\xff"}', ": not UTF-8: byte 0xff at offset 7$"),
    "utf-16": ('{"a": 1}'.encode("utf-16"), ": not UTF-8: byte 0xff at offset 0$"),
    "deep list": (b"[" * 100_000 + b"]" * 100_000, ": not JSON that can be read: nested too deeply$"),
    "deep object": (b'{"a":' * 100_000, ": not JSON that can be read: nested too deeply$"),
    "long number": (b"9" * 5000, ": not JSON that can be read: Exceeds the limit"),
    "nan": (b'{"a": NaN}', ": not JSON that can be read: NaN is no number$"),
    "infinity": (b"[-Infinity]", ": not JSON that can be read: -Infinity is no number$"),
    "too large": (b"[1e999]", ": not JSON that can be read: 1e999 is no number$"),
    "surrogate": (b'{"a": "\\udead"}', r": half a surrogate pair, '\\udead', is no text$"),
    "surrogate in a key": (b'{"\\uD800": 1}', ": half a surrogate pair"),
    "control": (b'{"a": "\n"}', ":1: not JSON: Invalid control character"),
    "zeros": (b"\0" * 100, ":1: not JSON"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_json_is_one_line_that_names_the_file(tmp_path, name):
    content, message = DAMAGED[name]
    (tmp_path / "a.json").write_bytes(content)
    for read in (read_json, read_object):
        with pytest.raises(WheelsError, match=f"a.json{message}") as caught:
            read(tmp_path / "a.json")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "given"), [([], "a list"), (None, "null"), ("a", "a string"), (1.5, "a number"), (True, "a boolean")]
)
def test_another_kind_where_an_object_belongs(tmp_path, value, given):
    (tmp_path / "a.json").write_text(json.dumps(value))
    with pytest.raises(WheelsError, match=f"a.json: must be a JSON object with named fields, got {given}$"):
        read_object(tmp_path / "a.json")
    with pytest.raises(WheelsError, match=r"a.json: lacks 'b'; it is damaged, or of another version$"):
        parse_object('{"a": 1}', "a.json", "a", "b")


def test_json_is_read_as_it_is(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": ["\xc3\xbc", "\\ud83d\\ude00"]}')
    assert read_object(tmp_path / "a.json", "a") == {"a": ["ü", "\U0001f600"]}
    assert math.isnan(parse_json("NaN", "a", finite=False))
    assert parse_json("1e999", "a", finite=False) == math.inf
