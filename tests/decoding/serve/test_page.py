"""The page, in a headless browser whose driver types, drags and reads; and what is sent with it."""

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.decoding.serve.browser import CHROMIUM, Page, browser
from tests.decoding.serve.harness import TEXTS, Served, served, until
from wheels.decoding.engine import Engine
from wheels.decoding.serve.page import EXAMPLE, policy

KEY = "sesame-0123"
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
OF_PANEL = "document.querySelectorAll('.panel')[{}]"
DONE = "document.getElementById('write').textContent === 'Write' && [...document.querySelectorAll('.panel')].every(\
    panel => panel.querySelectorAll('.text .t').length && panel.querySelector('td').textContent !== '–')"
TOLD = "document.getElementById('tip').hidden ? '' : document.getElementById('tip').innerText"
WAYS = [(width, dark) for width in (390, 800, 1300) for dark in (False, True)]


@pytest.fixture(scope="module")
def priced(embedded) -> Iterator[Served]:
    with served(embedded, prices=("prompt=0.40", "completion=1.60"), longest_output=200) as running:
        yield running


@pytest.fixture(scope="module")
def tab(tmp_path_factory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(tab: Page, priced: Served) -> Page:
    tab.events.clear()
    tab.size(1300)
    tab.go(priced.url)
    tab.until("document.querySelectorAll('.panel').length")
    return tab


def write(page: Page, text: str) -> None:
    page.click("#text")
    page.read("document.getElementById('text').select()")
    page.type(text)
    page.press("Enter", control=True)
    page.until(DONE)


def text_of(page: Page, panel: int) -> str:
    return page.read(f"{OF_PANEL.format(panel)}.querySelector('.text').textContent").removesuffix(" ∎")


def costs(page: Page, panel: int) -> dict[str, list[str]]:
    rows = (
        f"[...{OF_PANEL.format(panel)}.querySelectorAll('tbody tr')].map(e => [...e.children].map(c => c.textContent))"
    )
    return {name: values for name, *values in page.read(rows)}


def asked(server: Served, text: str, **more: Any) -> dict[str, Any]:
    body = server.body(prompt=text, max_tokens=128, return_authors=True, return_alternatives=True, **more)
    answer = server.post(body).json()
    return answer["choices"][0] | {"usage": answer["usage"]}


def is_as_asked(page: Page, panel: int, server: Served, text: str, **more: Any) -> None:
    """Wait for it: letters that come late are choices of their own, each of which begins to be written."""
    expected = asked(server, text, **more)
    tags = ["MARK" if each["author"] == "teacher" else "SPAN" for each in expected["authors"]]
    shown = f"[...{OF_PANEL.format(panel)}.querySelectorAll('.text .t')].map(e => e.tagName).join()"
    page.until(f"{DONE} && {shown} === '{','.join(tags)}'")
    assert text_of(page, panel) == expected["text"] != ""


@pytest.mark.slow
@needs_browser
def test_a_text_that_is_typed_is_written_in_two_colours_with_its_costs(page: Page, priced: Served) -> None:
    assert page.read("document.getElementById('text').value") == EXAMPLE
    write(page, TEXTS[1])
    is_as_asked(page, 0, priced, TEXTS[1], teacher_budget=0.2)
    is_as_asked(page, 1, priced, TEXTS[1], teacher_budget=1.0)
    some, alone = (asked(priced, TEXTS[1], teacher_budget=budget) for budget in (0.2, 1.0))
    told = costs(page, 0)
    usages = [some["usage"], alone["usage"]]
    assert told["Teacher use"] == [
        f"{100 * each['teacher_tokens'] / each['completion_tokens']:.0f}%" for each in usages
    ]
    assert told["Teacher passes"] == [str(each["teacher_passes"]) for each in usages]
    assert told["Tokens"] == [str(each["completion_tokens"]) for each in usages]
    assert [float(each) for each in told["Cents"]] == [float(f"{100 * each['dollars']:.2g}") for each in usages]
    assert all(float(each) > 0 for each in told["Seconds"])
    agreed = [token["author"] == "teacher" or token["id"] == other["id"]
              for token, other in zip(some["authors"], some["alternatives"], strict=True)]  # fmt: skip
    assert told["Teacher agrees"] == [f"{100 * sum(agreed) / len(agreed):.0f}%", "100%"]
    colours = page.read("['span.t', 'mark.t'].map(s => getComputedStyle(document.querySelector(`.text ${s}`)).color)")
    assert len(set(colours)) == 2


@pytest.mark.slow
@needs_browser
def test_a_budget_that_is_dragged_writes_the_text_anew_and_the_teacher_alone_stays(page: Page, priced: Served) -> None:
    write(page, TEXTS[0])
    before, alone = text_of(page, 0), costs(page, 1)
    start = page.read("(e => e.value / e.max)(document.querySelector('input[type=range]'))")
    page.drag("input[type=range]", start, 0)
    assert page.read("document.querySelector('output').value") == "0%"
    page.until("document.querySelectorAll('.panel')[0].querySelectorAll('.text mark').length === 0")
    page.until(DONE)
    is_as_asked(page, 0, priced, TEXTS[0], teacher_budget=0.0)
    assert text_of(page, 0) != before and costs(page, 1) == alone and costs(page, 0)["Cents"][0] == "0"
    page.click("input[type=range]")
    for _ in range(200):
        page.press("ArrowRight")
    assert page.read("document.querySelector('input[type=range]').getAttribute('aria-valuetext')") == "100%"
    page.until("document.querySelectorAll('.panel')[0].querySelectorAll('.text span').length === 0")
    page.until(DONE)
    is_as_asked(page, 0, priced, TEXTS[0], teacher_budget=1.0)


@pytest.mark.slow
@needs_browser
def test_two_budgets_and_two_rules_stand_side_by_side(page: Page, priced: Served) -> None:
    page.click("#compare")
    write(page, TEXTS[2])
    is_as_asked(page, 0, priced, TEXTS[2], teacher_budget=0.2)
    is_as_asked(page, 1, priced, TEXTS[2], teacher_budget=0.5)
    left, right = page.box(".panel:nth-child(1)"), page.box(".panel:nth-child(2)")
    assert left[1] == right[1] and left[0] + left[2] < right[0]
    page.read("document.querySelectorAll('select')[1].focus()")
    for letter in "entropy":
        page("Input.dispatchKeyEvent", type="keyDown", text=letter, key=letter)
        page("Input.dispatchKeyEvent", type="keyUp", key=letter)
    assert page.read("document.querySelectorAll('select')[1].value") == "entropy"
    expected = asked(priced, TEXTS[2], teacher_budget=0.5, rule="entropy")
    page.until(f"{OF_PANEL.format(1)}.querySelector('td').textContent === \
        '{100 * expected['usage']['teacher_tokens'] / expected['usage']['completion_tokens']:.0f}%'")  # fmt: skip
    page.until(DONE)
    is_as_asked(page, 1, priced, TEXTS[2], teacher_budget=0.5, rule="entropy")
    is_as_asked(page, 0, priced, TEXTS[2], teacher_budget=0.2)


@pytest.mark.slow
@needs_browser
def test_a_token_tells_what_the_other_model_would_have_said_by_mouse_and_by_keys(page: Page, priced: Served) -> None:
    write(page, TEXTS[1])
    expected = asked(priced, TEXTS[1], teacher_budget=0.2)
    pairs = list(zip(expected["authors"], expected["alternatives"], strict=True))

    def check(place: int) -> None:
        (token, other), told = pairs[place], page.read(TOLD)
        assert f"“{token['token'].strip()}”, written by the {token['author']}" in told
        same = token["id"] == other["id"]
        words = "the same" if same else f"“{other['token'].strip()}”"
        assert f"The {other['author']} would have written {words}" in told
        assert page.read(f"document.querySelectorAll('.text .t')[{place}].classList.contains('other')") != same

    first = next(place for place, (token, _) in enumerate(pairs) if token["author"] == "teacher")
    page.hover(".text mark.t")
    check(first)
    page.mouse("hover", 5, 5)
    assert page.read(TOLD) == ""
    page.click(".text .t")
    check(0)
    for place in (1, 2, 1):
        page.press("ArrowRight" if place != 1 or page.read("document.activeElement === \
            document.querySelectorAll('.text .t')[0]") else "ArrowLeft")  # fmt: skip
        check(place)
        assert page.read("document.activeElement.getAttribute('aria-describedby')") == "tip"
    page.press("End")
    assert "The end of the text, written by the" in page.read(TOLD)
    page.press("Escape")
    assert page.read(TOLD) == ""


@needs_browser
def test_escape_stops_and_the_server_is_idle(page: Page, priced: Served, monkeypatch) -> None:
    step = Engine.step
    monkeypatch.setattr(Engine, "step", lambda engine: (time.sleep(0.1), step(engine))[1])  # seconds for a text
    before = priced.service.metrics.counters["disconnects"][""]
    page.click("#text")
    page.type(TEXTS[0])
    page.press("Enter", control=True)
    page.until("document.querySelectorAll('.text .t').length")
    page.press("Escape")
    assert page.read("document.getElementById('write').textContent") == "Write"
    until(lambda: priced.service.metrics.counters["disconnects"][""] == before + 1)
    until(priced.idle)
    assert page.read("document.querySelectorAll('.alone .t').length") == 0


@needs_browser
def test_a_refusal_is_shown_where_the_text_would_be(page: Page) -> None:
    page.click("#text")
    page.type(TEXTS[0] * 40)
    page.click("#write")
    shown = "document.querySelector('.panel .error:not([hidden])')"
    page.until(f"{shown} !== null")
    assert "at most 256 are read; shorten it" in page.read(f"{shown}.textContent")
    page.until("document.getElementById('write').textContent === 'Write'")
    assert page.read("document.querySelector('.alone').innerText").strip() == "The teacher alone"


@pytest.mark.slow
@needs_browser
def test_a_key_is_asked_for_until_it_is_right_and_the_page_itself_needs_none(tab: Page, embedded) -> None:
    with served(embedded, key=KEY) as server:
        tab.go(server.url)
        for given in ("wrong", KEY):
            tab.until("document.getElementById('dialog').open && document.activeElement.id === 'secret'")
            tab.type(given)
            tab.press("Enter")
        tab.until("document.querySelectorAll('.panel').length")
        write(tab, TEXTS[0])
        is_as_asked(tab, 0, server, TEXTS[0])
        assert tab.read("document.cookie") == "" and tab.read("localStorage.length") == 0


@pytest.mark.slow
@needs_browser
def test_it_fits_every_width_in_both_themes_and_asks_nobody_else(page: Page, priced: Served, tmp_path) -> None:
    page.click("#compare")
    write(page, TEXTS[1])
    papers = set()
    for width, dark in WAYS:
        page.size(width, dark=dark, phone=width == 390)
        page.hover(".panel:nth-child(2) .t")
        assert page.read("document.documentElement.scrollWidth") == width
        left, _, wide, _ = page.box("#tip")
        assert left >= 0 and left + wide <= width
        papers.add(page.read("getComputedStyle(document.body).backgroundColor"))
        page.picture(tmp_path / f"{width}{'-dark' if dark else ''}.png")
    assert len(papers) == 2
    urls = [each["request"]["url"] for each in page.said("Network.requestWillBeSent")]
    assert len(urls) > 3 and all(url.startswith((f"{priced.url}/", "data:")) for url in urls)
    assert not page.said("Log.entryAdded") and not page.said("Runtime.exceptionThrown")


@needs_browser
def test_every_control_has_a_name(page: Page) -> None:
    page.click("#compare")
    nodes = page("Accessibility.getFullAXTree")["nodes"]
    controls = {"textbox", "button", "checkbox", "slider", "combobox", "spinbutton", "group"}
    named = [(node["role"]["value"], node["name"]["value"]) for node in nodes if node["role"]["value"] in controls]
    assert {role for role, _ in named} >= controls and all(name for _, name in named)
    assert len(set(named)) == len(named), "two controls have one name"


def test_the_page_runs_its_own_script_alone(server: Served) -> None:
    with server.http as http:
        answer = http.get("/")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    rules = dict(rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";"))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'"
    assert all(re.fullmatch(r"'sha256-[\w+/]{43}='", rules[name]) for name in ("script-src", "style-src"))
    assert policy(answer.text.replace('"use strict";', '"use strict"; ')) != policy(answer.text)
    addresses = set(re.findall(r"https?://[^'\"\s>]+", answer.text))
    assert addresses == {"http://www.w3.org/2000/svg"}, "the name of a format, not an address that is asked"
    assert not re.search(r"\son\w+=|\sstyle=|<link[^>]+stylesheet|src=", answer.text)


def test_the_page_needs_no_key_and_tells_nothing(embedded) -> None:
    with served(embedded, key=KEY) as server:
        bare = Served(server.service, server.server, server.url)
        with bare.http as http:
            assert http.get("/").status_code == 200 and KEY not in http.get("/").text
            assert server.service.name not in http.get("/").text
            assert http.get("/v1/models").status_code == 401
            assert http.get("/", headers={"Host": "example.org"}).status_code == 200


def test_a_server_without_a_key_answers_to_no_other_name(server: Served) -> None:
    with server.http as http:
        assert http.get("/", headers={"Host": "example.org"}).status_code == 403


@pytest.mark.slow
def test_the_models_list_says_which_budgets_there_are(server: Served) -> None:
    with server.http as http:
        (told,) = http.get("/v1/models").json()["data"]
    told = told["wheels"]
    assert (told["rule"], told["teacher_budget"], told["method"], told["priced"]) == ("learned", 0.2, "deferral", False)
    rules = {rule["name"]: rule["budgets"] for rule in told["rules"]}
    assert len(rules["random"]) == 101 and 0.9 not in rules["entropy"] and {0.0, 0.2, 1.0} <= set(rules["entropy"])
    for rule, budgets in rules.items():
        for budget in (budgets[1], budgets[-2]):
            body = server.body(rule=rule, teacher_budget=budget, max_tokens=1)
            assert server.post(body).status_code == 200, (rule, budget)
