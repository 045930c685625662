import threading
import time
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from tests.distillation.faulty_server import FaultyServer
from wheels.distillation.endpoint import (
    Endpoint,
    Patience,
    RequestFailed,
    RequestRefused,
    backoff,
    chat_url,
    retry_after,
)
from wheels.errors import WheelsError

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
QUICK = Patience(attempts=4, timeout=0.2, base=0.001, cap=0.01)


def endpoint(server, patience=QUICK, **options):
    return Endpoint(server.url, "m", patience=patience, **options)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("0.5", 0.5),
        ("-2", 0.0),
        ("soon", None),
        (format_datetime(datetime(2026, 1, 1, 12, 0, 7, tzinfo=UTC), usegmt=True), 7.0),
        ("Thu, 01 Jan 2026 11:59:00 GMT", 0.0),
    ],
)
def test_retry_after_in_seconds_and_as_a_date(value, seconds):
    assert retry_after(value, NOW) == seconds


def test_backoff_doubles_up_to_its_cap_and_is_jittered_in_full():
    patience = Patience(base=0.5, cap=3.0)
    assert [backoff(attempt, patience, 1.0) for attempt in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff(9999, patience, 0.5) == 1.5
    assert backoff(2, patience, 0.0) == 0.0


@pytest.mark.parametrize(
    "url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/", "http://h:1/v1/chat/completions"]
)
def test_an_address_is_a_server_its_v1_or_whole(url):
    assert chat_url(url) == "http://h:1/v1/chat/completions"


@pytest.mark.parametrize("url", ["h:1", "ftp://h", "http://", "http://me:secret@h", "http://h/v1?key=secret"])
def test_an_address_with_a_key_in_it_or_none_at_all_is_refused(url):
    with pytest.raises(WheelsError, match="an endpoint must be") as caught:
        chat_url(url)
    assert "secret" not in str(caught.value)


def test_a_request_is_what_an_openai_server_expects(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    with FaultyServer() as server:
        assert (
            endpoint(server, key_variable="MY_KEY", max_tokens=9).ask("hallo \u2028", "item-1")
            == "label of hallo \u2028"
        )
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions"
    headers = request["headers"]
    assert headers["authorization"] == "Bearer sk-secret"
    assert headers["idempotency-key"] == "item-1"
    assert request["body"] == {"model": "m", "messages": [{"role": "user", "content": "hallo \u2028"}],
                               "temperature": 0.0, "max_tokens": 9}  # fmt: skip


@pytest.mark.parametrize("fault", ["429", "500", "hang", "truncated", "hang after charging", "page"])
def test_what_passes_is_tried_again_and_then_given_up(fault):
    with FaultyServer(faults=[fault], share=1.0, hang=0.4) as server:
        patience = Patience(attempts=2, timeout=0.1, base=0.001)
        with pytest.raises(RequestFailed, match="no answer"):
            endpoint(server, patience).ask("x", "k")
        assert server.seen[fault] == 2
        server.share = 0.0
        assert endpoint(server, patience).ask("x", "k") == "label of x"


@pytest.mark.parametrize("code", ["400", "401", "403", "404", "422"])
def test_what_does_not_pass_is_asked_once_and_the_key_stays_secret(monkeypatch, code):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with FaultyServer(faults=[code], share=1.0) as server:
        with pytest.raises(RequestRefused, match=rf"code {code}: .*Bearer \[key\]") as caught:
            endpoint(server).ask("x", "k")
        assert len(server.requests) == 1
    assert "sk-secret" not in str(caught.value)


def test_retry_after_is_waited_for():
    with FaultyServer(faults=["429"], share=1.0) as server:
        server.retry_after = "0.15"
        start = time.monotonic()
        with pytest.raises(RequestFailed, match="code 429"):
            endpoint(server, Patience(attempts=3, base=0.0)).ask("x", "k")
        assert 0.3 <= time.monotonic() - start < 1.0
        server.retry_after = "3600"
        with pytest.raises(RequestFailed, match="to be tried again after 3600 s"):
            endpoint(server).ask("x", "k")


def test_an_answer_that_drips_is_cut_off():
    with FaultyServer(faults=["drip"], share=1.0) as server:
        start = time.monotonic()
        with pytest.raises(RequestFailed, match=r"took more than 0\.1 s"):
            endpoint(server, Patience(attempts=1, timeout=0.1)).ask("x", "k")
        assert time.monotonic() - start < 0.5


def test_closing_ends_a_wait_at_once():
    with FaultyServer(faults=["429"], share=1.0) as server:
        server.retry_after = "20"
        one = endpoint(server)
        threading.Timer(0.1, one.stopped.set).start()
        start = time.monotonic()
        with pytest.raises(RequestFailed, match="code 429"):
            one.ask("x", "k")
        assert time.monotonic() - start < 2.0


def test_half_a_surrogate_pair_becomes_what_a_file_can_hold():
    with FaultyServer(answer=lambda prompt: "half \ud800") as server:
        assert endpoint(server).ask("x", "k") == "half ?"


def test_a_server_that_is_not_there_is_no_answer():
    with FaultyServer() as server:
        url = server.url
    with pytest.raises(RequestFailed, match="ConnectError"):
        Endpoint(url, "m", patience=QUICK).ask("x", "k")
