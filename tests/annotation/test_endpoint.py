import gzip
import json
import threading
import time
from contextlib import closing

import pytest

from tests.annotation.faulty_server import FaultyServer
from tests.endpoints.raw_server import RawServer, completion, response
from wheels.annotation.answer import Answer
from wheels.annotation.endpoint import Endpoint
from wheels.endpoints.faults import RequestFailed, RequestRefused, ServerRefused
from wheels.endpoints.retry import Patience
from wheels.errors import WheelsError

QUICK = Patience(attempts=4, timeout=30.0, base=0.001, cap=0.01)
SOON = Patience(attempts=1, timeout=0.2)
SECRET = "sk-THESECRET42"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "no_proxy")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in (*PROXIES, "OPENAI_API_KEY", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


def ask(server, patience=QUICK, prompt="x", **options):
    with closing(Endpoint(server.url, "m", patience=patience, **options)) as endpoint:
        return endpoint.ask(prompt, "k")


class Waits(threading.Event):
    """An event that notes how long it is waited for, and waits for nothing."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def wait(self, timeout=None):
        self.seconds.append(timeout)
        return self.is_set()


def test_a_request_is_what_an_openai_server_expects(monkeypatch):
    monkeypatch.setenv("MY_KEY", SECRET)
    with FaultyServer() as server:
        said = ask(server, prompt="hallo \u2028 \ud800", key_variable="MY_KEY", max_tokens=9)
    assert said == Answer("label of hallo \u2028 ?")
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions"
    headers = request["headers"]
    assert headers["authorization"] == f"Bearer {SECRET}"
    assert "api-key" not in headers
    assert headers["content-type"] == "application/json"
    assert headers["idempotency-key"] == "k"
    assert request["body"] == {"model": "m", "messages": [{"role": "user", "content": "hallo \u2028 \ud800"}],
                               "temperature": 0.0, "max_tokens": 9}  # fmt: skip


def test_a_server_with_an_api_version_gets_it_and_the_key_where_it_reads_it(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with FaultyServer() as server:
        url = f"{server.url}/openai/deployments/d?api-version=2024-10-21"
        with closing(Endpoint(url, "m", patience=QUICK)) as endpoint:
            assert endpoint.ask("x", "k") == Answer("label of x")
    (request,) = server.requests
    assert request["path"] == "/openai/deployments/d/chat/completions?api-version=2024-10-21"
    assert request["headers"]["api-key"] == SECRET


def test_options_that_a_server_does_not_take_are_renamed_or_left_out_once():
    def answer(connection, body):
        for name, words in (
            (
                "max_tokens",
                "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens'.",
            ),
            ("temperature", "Unsupported value: 'temperature' does not support 0 with this model."),
        ):
            if name in body:
                return connection.sendall(response(json.dumps({"error": {"message": words}}).encode(), 400))
        return connection.sendall(response(completion()))

    patience = Patience(attempts=1, timeout=5.0)
    with RawServer(answer) as server, closing(Endpoint(server.url, "m", patience=patience, max_tokens=9)) as endpoint:
        assert endpoint.ask("x", "k") == Answer("label")
        assert endpoint.ask("y", "l") == Answer("label")
    assert [sorted(set(body) - {"model", "messages"}) for body in server.bodies] == [
        ["max_tokens", "temperature"],
        ["max_completion_tokens", "temperature"],
        ["max_completion_tokens"],
        ["max_completion_tokens"],
    ]
    assert server.bodies[-1]["max_completion_tokens"] == 9


def test_a_prompt_that_leaves_no_room_for_an_answer_changes_no_option():
    words = "'max_tokens' or 'max_completion_tokens' is too large: 9. The maximum context length is 4096 tokens."
    body = json.dumps({"error": {"message": words}}).encode()
    with RawServer(lambda connection, _: connection.sendall(response(body, 400))) as server:
        with pytest.raises(RequestRefused, match="is too large"):
            ask(server)
        assert len(server.bodies) == 1


@pytest.mark.parametrize("fault", ["429", "500", "hang", "truncated", "hang after charging", "page"])
def test_what_passes_is_tried_again_and_then_given_up(fault):
    with FaultyServer(faults=[fault], share=1.0, hang=0.4) as server:
        patience = Patience(attempts=2, timeout=0.1, base=0.001)
        with pytest.raises(RequestFailed, match="no answer"):
            ask(server, patience)
        assert server.seen[fault] == 2
        server.share = 0.0
        assert ask(server, Patience()) == Answer("label of x")


@pytest.mark.parametrize("code", ["400", "401", "403", "404", "413", "422"])
def test_what_does_not_pass_is_asked_once_and_the_key_stays_secret(monkeypatch, code):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    kind = RequestRefused if code in ("400", "413", "422") else ServerRefused
    with FaultyServer(faults=[code], share=1.0) as server:
        with pytest.raises(kind, match=rf"code {code}: .*Bearer \[key\]") as caught:
            ask(server)
        assert len(server.requests) == 1
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("place", [0, *range(160, 178, 2), 171, 173])
def test_a_key_is_masked_where_an_error_is_cut_within_it(monkeypatch, place):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    body = ("x" * place + json.dumps(SECRET) + "y" * 300).encode()
    server = RawServer(lambda connection, _: connection.sendall(response(body, 401)))
    with server, pytest.raises(ServerRefused, match="code 401") as caught:
        ask(server)
    assert SECRET[:4] not in str(caught.value)


def test_a_key_in_an_answer_is_masked_and_the_answer_is_no_label(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with RawServer(lambda connection, _: connection.sendall(response(completion(f"It is {SECRET}!")))) as server:
        assert ask(server) == Answer("It is [key]!", "repeats the key")
    for placeholder, answer in (("test", Answer("a test")), ("t3st", Answer("a t3st"))):
        monkeypatch.setenv("OPENAI_API_KEY", placeholder)
        body = response(completion(answer.text))
        with RawServer(lambda connection, _, body=body: connection.sendall(body)) as server:
            assert ask(server) == (answer if placeholder.isalpha() else Answer("a [key]", "repeats the key"))


def test_a_redirect_is_not_followed_with_the_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    moved = response(b"", 307, "Location: http://127.0.0.1:9/v1")
    server = RawServer(lambda connection, _: connection.sendall(moved))
    with server, pytest.raises(ServerRefused, match=r"code 307: it redirects to 'http://127\.0\.0\.1:9/v1'"):
        ask(server)


def head_drips(connection, _):
    for byte in b"HTTP/1.1 200 OK\r\nX-Pad: aaaa\r\n":
        connection.sendall(bytes([byte]))
        time.sleep(0.02)
    connection.sendall(response(completion()).split(b"\r\n", 1)[1])


def informs_without_end(connection, _):
    for _ in range(20):
        connection.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")
        time.sleep(0.03)
    connection.sendall(response(completion()))


def head_and_body_are_late(connection, _):
    head, body = response(completion()).split(b"\r\n\r\n")
    time.sleep(0.15)
    connection.sendall(head + b"\r\n\r\n")
    time.sleep(0.15)
    connection.sendall(body)


def body_drips(connection, _):
    head, body = response(completion()).split(b"\r\n\r\n")
    connection.sendall(head + b"\r\n\r\n")
    for place in range(0, len(body), 5):
        connection.sendall(body[place : place + 5])
        time.sleep(0.03)


def gzip_decodes_to_nothing(connection, _):
    body = gzip.compress(completion("label" * 2000), mtime=0)
    connection.sendall(response(body, 200, "Content-Encoding: gzip")[: -len(body)])
    for place in range(0, len(body), 5):
        connection.sendall(body[place : place + 5])
        time.sleep(0.03)


@pytest.mark.parametrize(
    "slowly", [head_drips, informs_without_end, head_and_body_are_late, body_drips, gzip_decodes_to_nothing]
)
def test_the_deadline_is_that_of_the_whole_attempt(slowly):
    # Each of them ends well, after more than the deadline: who waits for the end has an answer.
    with RawServer(slowly) as server, pytest.raises(RequestFailed, match=r"took more than 0\.2 s"):
        ask(server, SOON)


def test_retry_after_is_waited_for():
    with FaultyServer(faults=["429"], share=1.0) as server:
        server.retry_after = "7"
        with closing(Endpoint(server.url, "m", patience=Patience(attempts=3, base=0.0))) as one:
            one.stopped = waits = Waits()
            with pytest.raises(RequestFailed, match="code 429"):
                one.ask("x", "k")
            assert waits.seconds == [7.0, 7.0]
            for value in ("3600", "1e12", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"):
                server.retry_after, before = value, len(server.requests)
                with pytest.raises(RequestFailed, match=r"code 429, to be tried again after \d+ s"):
                    one.ask("x", "k")
                assert len(server.requests) == before + 1


def test_closing_ends_a_wait_and_what_is_under_way():
    with FaultyServer(faults=["429"], share=1.0) as server:
        one = Endpoint(server.url, "m", patience=QUICK)
        one.stopped = Waits()
        one.stopped.wait = lambda timeout: one.close()
        with pytest.raises(RequestFailed, match="code 429"):
            one.ask("x", "k")
        assert len(server.requests) == 1
        with pytest.raises(RequestFailed, match="it was stopped"):
            one.ask("x", "k")
    reached, never = threading.Event(), threading.Event()
    with RawServer(lambda connection, _: (reached.set(), never.wait(60))) as server:
        one, said = Endpoint(server.url, "m", patience=Patience(timeout=20.0)), []

        def work():
            with pytest.raises(RequestFailed, match="it was stopped") as caught:
                one.ask("x", "k")
            said.append(caught.value)

        thread = threading.Thread(target=work)
        thread.start()
        assert reached.wait(30)
        one.close()
        thread.join(30)
        assert said, "a request that hangs holds its thread"
        never.set()


def test_a_server_that_is_not_there_is_no_answer():
    with FaultyServer() as server:
        pass
    with pytest.raises(RequestFailed, match="ConnectError"):
        ask(server)


def test_this_machine_is_asked_without_a_proxy_and_others_through_it(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    answer = response(completion())
    with (
        RawServer(lambda one, _: one.sendall(answer)) as proxy,
        RawServer(lambda one, _: one.sendall(answer)) as server,
    ):
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert ask(server, Patience()) == Answer("label")
        assert (len(server.heads), len(proxy.heads)) == (1, 0)
        with closing(Endpoint("http://teacher.invalid", "m", patience=Patience())) as endpoint:
            assert endpoint.ask("x", "k") == Answer("label")
        assert proxy.heads[0].startswith("POST http://teacher.invalid/v1/chat/completions")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks://me:PASSWORD@127.0.0.1:1"),
        ("HTTPS_PROXY", "ftp://me:PASSWORD@127.0.0.1:1"),
        ("HTTPS_PROXY", "http://me:PASSWORD@h:abc"),
        ("SSL_CERT_FILE", "/nonexistent.pem"),
    ],
)
def test_settings_of_the_environment_that_cannot_be_used_are_one_line(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(WheelsError, match="the proxies or certificates of the environment") as caught:
        Endpoint("https://teacher.invalid", "m")
    assert "PASSWORD" not in str(caught.value)


def test_a_closed_endpoint_holds_nothing():
    """Its thread has ended and its loop is closed, however often it is told, and however early."""
    one = Endpoint("http://teacher.invalid", "m", patience=Patience())
    for _ in range(2):
        one.close()
    assert not one._thread.is_alive() and one._loop.is_closed()
