"""Traces as text, JSON and a page: nothing in a text can become more than text."""

import json
import re
from html.parser import HTMLParser

import pytest

from tests.decoding.test_trace import trace_of
from tests.output.test_visible import ODD
from wheels.decoding.render import PLAIN, TEACHER_COLOR, as_html, as_json, as_text, spans, summary

EVIL = "<script>alert('x')</script> & \"<mark>\" </section></title></style><!--"
NAMES = {"student": "small", "teacher": "large"}


def test_spans_are_the_text_without_outer_spaces():
    trace = trace_of(["", "  ", " a", "", "b c", "d \n", " ", ""], "ttstsstt")
    assert spans(trace) == [("student", "a"), ("student", "b c"), ("student", "d")]
    assert "".join(text for _, text in spans(trace)) == trace.text == "ab cd"
    assert spans(trace_of(["", " "], "tt")) == []


def test_plain_text_has_no_escapes():
    trace = trace_of([" a", " b", " c"], "-t-")
    assert as_text(trace) == "a b c"
    assert "\x1b" not in as_text(trace)


def test_colour_is_around_the_teachers_tokens_alone():
    trace = trace_of([" a", " b", "c", " d", ""], "-tt-t")
    assert as_text(trace, color=True) == f"a{TEACHER_COLOR} bc{PLAIN} d"
    assert as_text(trace_of([" a", " b"], "--"), color=True) == "a b"
    assert re.sub(r"\x1b\[[0-9;]*m", "", as_text(trace, color=True)) == trace.text


def test_an_escape_in_the_text_cannot_colour_the_terminal():
    shown = as_text(trace_of(["a", "\x1b[2Jb"], "-t"), color=True)
    assert shown == f"a{TEACHER_COLOR}�[2Jb{PLAIN}"


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("author", "-t")
def test_a_terminal_and_a_page_obey_nothing_in_a_text(name, author):
    trace = trace_of(["a", ODD[name], "b"], f"-{author}-")
    for color in (False, True):
        shown = as_text(trace, color=color).replace(TEACHER_COLOR, "").replace(PLAIN, "")
        assert shown.replace("�", "").isprintable() and "�" in shown
    assert as_json([trace])[:-1].isprintable() and json.loads(as_json([trace])) == trace.to_json()
    page = as_html([trace], [ODD[name]], student=ODD[name], teacher="t")
    assert page.replace("\n", "").replace("�", "").isprintable() and page.count("�") >= 3


def test_texts_of_a_page_have_their_own_direction():
    page = as_html([trace_of(["שלום"], "-")], ["مرحبا"], **NAMES)
    assert '<p class="source" dir="auto">مرحبا</p>' in page and '<p class="text" dir="auto">שלום</p>' in page


@pytest.mark.parametrize("color", [False, True])
def test_one_line_stands_for_one_output(color):
    trace = trace_of(["a\n", "b\r\nc", " d\u2028"], "-t-")
    assert as_text(trace, color=color, one_line=True).count("\n") == 0
    assert as_text(trace, one_line=True) == "a b c d"
    assert as_text(trace, color=color).count("\n") == 2


def test_json_is_one_object_a_line():
    traces = [trace_of(["ä\n", EVIL, "\u2028"], "-t-"), trace_of([], "")]
    shown = as_json(traces)
    lines = shown.split("\n")
    assert len(lines) == 3 and lines[2] == ""
    assert [json.loads(line) for line in lines[:2]] == [trace.to_json() for trace in traces]
    assert "ä" in shown


def test_the_summary_by_hand():
    first = trace_of(["a"] * 10, "t--t------", budget=0.2)
    second = trace_of(["a"] * 15, "-" * 15, budget=0.2)
    assert summary([first, second]) == ("teacher use 0.08 (asked 0.2, average): 2 of 25 tokens, 2 passes, 4 positions")
    one = trace_of(["a"], "t", mode="strict", budget=1.0)
    assert summary([one]) == "teacher use 1.00 (asked 1, strict): 1 of 1 token, 1 pass, 1 position"


class Page(HTMLParser):
    """The tags of a page, and the text within some of them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.open, self.texts = [], [], {}
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        if tag != "meta":
            self.open.append((tag, dict(attributes).get("class")))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag, "a tag is closed that was not opened last"

    def handle_data(self, data: str) -> None:
        for key in {name for pair in self.open for name in pair}:
            self.texts[key] = self.texts.get(key, "") + data


def page_of(pieces: list[str], by_teacher: str, source: str = "src", **names: str) -> Page:
    return Page(as_html([trace_of(pieces, by_teacher)], [source], **(NAMES | names)))


def test_a_page_is_well_formed_and_marks_the_teachers_tokens():
    page = page_of([" a", " b", "c", ""], "-tt-")
    assert page.open == [] and page.texts["text"] == "a bc"
    assert page.tags.count("mark") == 3, "one for each token, and one in the heading"
    assert page.texts["mark"] == "the teacher bc"


@pytest.mark.parametrize("place", ["teacher's token", "student's token", "source", "name"])
def test_markup_in_a_text_stays_text(place):
    clean = page_of(["a", "b"], "-t")
    pieces = ["a", EVIL] if place == "teacher's token" else [EVIL, "b"] if place == "student's token" else ["a", "b"]
    page = page_of(
        pieces, "-t", source=EVIL if place == "source" else "src", **({"teacher": EVIL} if place == "name" else {})
    )
    assert page.tags == clean.tags and page.open == []
    where = {"source": "source", "name": "dd"}.get(place, "text")
    assert EVIL in page.texts[where]


def test_a_page_loads_and_runs_nothing():
    shown = as_html([trace_of(["a"], "t")], ["src"], **NAMES)
    assert "default-src 'none'" in shown
    assert not re.search(r"<script|<link|<img|src=|href=|url\(|@import|\son\w+=", shown)


def test_the_head_of_a_page_says_what_it_cost():
    traces = [trace_of(["a"] * 10, "t--t------"), trace_of(["a"] * 6, "------", finished=False)]
    page = Page(as_html(traces, ["x", "y"], **NAMES))
    facts = page.texts["dd"]
    for fact in ("0.125 of all tokens, in 2 outputs", "0.2, average", "learned", "small", "large"):
        assert fact in facts
    assert "2 of 16 tokens, 2 passes, 4 positions, and 4 of the source" in facts
    assert "1.0 of 8.0 tokens, 1.0 passes, 2.0 positions, and 2.0 of the source" in facts
    assert page.texts["cost"].count("cut at the length limit") == 1
    assert page.texts["source"] == "xy"


def test_a_page_is_for_light_and_dark():
    shown = as_html([trace_of(["a"], "t")], ["src"], **NAMES)
    assert "color-scheme:light dark" in shown and "prefers-color-scheme:dark" in shown
