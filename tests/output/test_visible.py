import json

import pytest

from wheels.output.visible import html, json_line, one_line, visible

ODD = {
    "ESC": "\x1b[31mred",
    "BEL": "a\x07",
    "backspace": "a\b\bb",
    "return": "safe\rx",
    "C1 CSI": "\x9b31m",
    "DEL": "\x7f",
    "OSC 8": "\x1b]8;;http://x\x1b\\a",
    "override": "\u202eabc\u202c",
    "isolate": "\u2067abc\u2069",
    "form feed": "a\fb",
    "surrogate": "a\udc80",
    "NUL": "\0",
}


@pytest.mark.parametrize("name", ODD)
def test_nothing_is_left_that_a_terminal_or_a_page_obeys(name):
    for shown in (visible(ODD[name]), one_line(ODD[name]), html(ODD[name])):
        assert shown.encode().decode().replace("�", "").isprintable()
    assert visible(ODD[name]).count("�") + one_line(ODD[name]).count("�") >= 1
    line = json_line([ODD[name]])
    assert line.isprintable() and json.loads(line) == [ODD[name]]


def test_text_of_every_script_stays_as_it_is():
    text = "für\t5 €\n東京 שלום\u200f مرحبا 👩\u200d👩\u200d👧 ที่\u00ad"
    assert visible(text) == text
    assert one_line(" a\r\n b\u2028c ") == "a b c"
    assert visible("a\r\nb") == "a\nb"
    assert html('<b>"&\x1b') == "&lt;b&gt;&quot;&amp;�"
    assert json_line({"a": "ü\n\x1b\u202e"}) == '{"a": "ü\\n\\u001b\\u202e"}'
