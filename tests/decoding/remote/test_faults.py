"""Whatever the teacher does, the student goes on; what a caller sees of it stands in the guide's table."""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from tests.decoding.remote.conftest import Far
from tests.decoding.remote.fake_vllm import NAME, FakeVllm, Handler
from tests.decoding.tiny import write
from tests.docs.blocks import ROOT
from tests.envs.tiny import SOURCES
from wheels.cli.main import main
from wheels.decoding.engine import Engine
from wheels.decoding.methods.method import deferral, student_only
from wheels.decoding.methods.rules import RULES
from wheels.decoding.params import DecodeParams
from wheels.decoding.remote.breaker import CLOSED, HALF_OPEN, OPEN, Breaker
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.prices import Prices
from wheels.decoding.remote.teacher import REASONS, RemoteTeacher
from wheels.decoding.sequences import prepare_sequences
from wheels.decoding.trace import teacher_use
from wheels.endpoints.retry import Patience
from wheels.errors import WheelsError

pytestmark = pytest.mark.slow

LONG = {"max_new_tokens": 12}
RANDOM, MAXPROB = RULES["random"], RULES["maxprob"].at(0.6)
GUIDE = ROOT / "docs" / "guides" / "remote-teacher.md"


def gone(handler: Handler) -> None:
    """Close the connection, and take no other."""
    with suppress(OSError):
        handler.server.socket.close()
    handler.close_connection = True


def drip(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    with suppress(OSError):
        for _ in range(60):
            handler.wfile.write(b" ")
            time.sleep(0.01)
    handler.close_connection = True


def hang(handler: Handler) -> None:
    time.sleep(0.5)
    handler.close_connection = True


def cut(handler: Handler) -> None:
    handler.send(200, b'{"choices": [{"index": 0, "tok')


def broken_off(handler: Handler) -> None:
    handler.send(200, b'{"choices": [', length=500)
    handler.close_connection = True


def change(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    """Return what puts other fields into every choice of an answer."""

    def changed(answer: dict[str, Any]) -> Any:
        for choice in answer["choices"]:
            choice.update(fields)
        return answer

    return changed


@dataclass(frozen=True)
class Fault:
    """What a server does, and what a caller sees of it."""

    words: str
    """In the warning."""
    tries: int
    """Requests for one call, of three attempts."""
    opens: str
    """When the breaker leaves the server alone."""
    play: Callable[[Handler], object] | None = None
    """Instead of the answer."""
    change: Callable[[dict[str, Any]], Any] = lambda answer: answer
    """Or of an answer."""
    paid: bool = False
    """Whether an answer came that is paid for."""


TOO_LONG = "This model's maximum context length is 64 tokens."
FAULTS = {
    "connection refused": Fault("ConnectError", 3, "after 3 calls", gone),
    "401": Fault("code 401: bad key", 1, "at once", lambda handler: handler.error(401, "bad key")),
    "unknown model": Fault(
        "code 404: no such model", 1, "at once", lambda handler: handler.error(404, "no such model")
    ),
    "429": Fault("code 429", 3, "after 3 calls", lambda handler: handler.error(429, "busy", Retry_After="0.01")),
    "429, wait longer than 10 s": Fault(
        "code 429, to be tried again after 60 s",
        1,
        "after 3 calls",
        lambda handler: handler.error(429, "busy", Retry_After="60"),
    ),
    "5xx": Fault("code 503", 3, "after 3 calls", lambda handler: handler.error(503, "oops")),
    "a hang": Fault("an attempt that took more than", 3, "after 3 calls", hang),
    "dripping bytes": Fault("an attempt that took more than", 3, "after 3 calls", drip),
    "cut JSON": Fault("an answer that is no JSON", 3, "after 3 calls", cut),
    "an answer that breaks off": Fault("RemoteProtocolError", 3, "after 3 calls", broken_off),
    "wrong ids": Fault("token id 99; the student has", 1, "after 3 calls", change=change(token_ids=[99]), paid=True),
    "no ids": Fault("answers without token ids: None", 1, "after 3 calls", change=change(token_ids=None), paid=True),
    "an empty choice": Fault(
        "answers with 0 tokens", 1, "after 3 calls", change=change(token_ids=[], finish_reason="length"), paid=True
    ),
    "no choice": Fault("answers with no completion", 1, "never", change=lambda answer: {"choices": [], "model": NAME}),
    "a refusal": Fault(
        "ends a text with 'content_filter'", 1, "never", change=change(finish_reason="content_filter"), paid=True
    ),
    "context overflow": Fault(
        "code 400: This model's maximum", 1, "never", lambda handler: handler.error(400, TOO_LONG)
    ),
    "another model": Fault(
        "answers with another model", 1, "after 3 calls", change=lambda answer: answer | {"model": "other"}, paid=True
    ),
}


def break_down(server: FakeVllm, fault: Fault, times: int = 10**9) -> None:
    """Let a server play a fault from now on, some times."""
    left = [times]

    def play(handler: Handler, body: dict[str, Any]) -> bool:
        server.change = fault.change if left[0] > 0 else lambda answer: answer
        left[0] -= 1
        if left[0] < 0 or fault.play is None:
            return False
        fault.play(handler)
        return True

    server.fault = play


def quick(far: Far, server: FakeVllm, timeout: float = 0.1, **settings: Any) -> RemotePair:
    """Return a pair whose teacher is tried three times, without waits to speak of."""
    there = far(server, on_error="continue", **settings)
    there.remote.client.patience = Patience(3, timeout, base=0.001, longest=10.0)
    return there


@pytest.mark.parametrize("name", FAULTS)
def test_the_student_goes_on(pair, server, far, name):
    fault, there = FAULTS[name], quick(far, server, breaker=Breaker(failures=10**9), prices=Prices(1.0, 1.0))
    break_down(server, fault)
    ledger, tried = there.remote.ledger, there.remote.ledger.spent
    traces = write(there, SOURCES, RANDOM, budget=0.4, batch_size=1, **LONG)
    assert (ledger.spent > tried) == fault.paid and ledger.reserved == 0
    alone = write(pair, SOURCES, student_only(), budget=0.0, **LONG)
    assert [trace.token_ids for trace in traces] == [trace.token_ids for trace in alone]
    assert not any(trace.teacher_tokens or trace.teacher_passes or trace.teacher_use for trace in traces)
    calls = sum(trace.degraded for trace in traces)
    ((reason, count),) = there.remote.failures.items() if name != "connection refused" else [("ConnectError", calls)]
    assert fault.words in reason and (count == calls > 5 or FAULTS[name].opens == "at once")
    if name != "connection refused":
        assert len(server.asked) == (fault.tries * calls if fault.opens != "at once" else 1)


@pytest.mark.parametrize("name", FAULTS)
def test_the_server_is_left_alone_after_three_failures(server, far, name):
    fault, there = FAULTS[name], quick(far, server)
    break_down(server, fault)
    traces = write(there, SOURCES, RANDOM, budget=0.4, batch_size=1, **LONG)
    expected = {"at once": 1, "after 3 calls": 3, "never": sum(trace.degraded for trace in traces)}[fault.opens]
    if name != "connection refused":
        assert len(server.asked) == fault.tries * expected
    assert there.remote.breaker.state == (CLOSED if fault.opens == "never" else OPEN)
    assert sum(trace.degraded for trace in traces) > 5


@pytest.mark.parametrize("name", FAULTS)
def test_the_table_of_the_guide(name):
    fault = FAULTS[name]
    (row,) = [line for line in GUIDE.read_text().splitlines() if line.startswith(f"| {name} |")]
    _, tries, paid, opens, words = (part.strip() for part in row.strip("|").split("|"))
    assert (int(tries), paid, opens) == (fault.tries, "yes" if fault.paid else "no", fault.opens)
    assert fault.words.split(":")[0] in words.strip("`").replace("30 s", "") or words.strip("`") in fault.words


@pytest.mark.parametrize("name", ["401", "5xx", "wrong ids", "a refusal"])
def test_or_everything_stops(server, far, name):
    there = far(server, on_error="stop")
    there.remote.client.patience = Patience(2, 5.0, base=0.001)
    break_down(server, FAULTS[name])
    with pytest.raises(WheelsError, match=f"the teacher failed: .*{FAULTS[name].words}.*; --on-teacher-error continue"):
        write(there, SOURCES, RANDOM, budget=0.4, **LONG)


def test_what_passes_is_tried_again_and_nobody_sees_it(pair, server, far):
    there = quick(far, server, timeout=10.0)
    break_down(server, FAULTS["5xx"], times=2)
    traces = write(there, SOURCES, MAXPROB, **LONG)
    assert [trace.token_ids for trace in traces] == [t.token_ids for t in write(pair, SOURCES, MAXPROB, **LONG)]
    assert not any(trace.degraded for trace in traces) and not there.remote.failures


def test_one_text_that_is_refused_leaves_the_others_of_its_request(pair, server, far):
    there, first = quick(far, server, timeout=10.0), pair.encode([SOURCES[0]])[0]
    own = lambda prompt: prompt[: len(first)] == first  # noqa: E731

    def refuse(handler: Handler, body: dict[str, Any]) -> bool:
        if not any(map(own, body["prompt"])):
            return False
        handler.error(400, TOO_LONG)
        return True

    server.fault = refuse
    traces = write(there, SOURCES, MAXPROB, **LONG)
    here = write(pair, SOURCES, MAXPROB, **LONG)
    assert traces[0].degraded and not traces[0].teacher_tokens
    assert [trace.token_ids for trace in traces[1:]] == [trace.token_ids for trace in here[1:]]
    assert not any(trace.degraded for trace in traces[1:]) and there.remote.breaker.state == CLOSED


def test_one_part_of_an_answer_that_is_wrong_leaves_the_others(pair, server, far):
    there = quick(far, server, timeout=10.0)

    def spoil(answer: dict[str, Any]) -> dict[str, Any]:
        if len(answer["choices"]) > 1:
            answer["choices"][0]["token_ids"] = [99]
        return answer

    server.change = spoil
    traces = write(there, SOURCES, MAXPROB, **LONG)
    assert any(trace.degraded for trace in traces) and any(trace.teacher_tokens for trace in traces)
    assert len(server.asked) < sum(trace.degraded + trace.teacher_tokens for trace in traces), "none is asked for again"


def test_a_strict_budget_is_spent_on_answers_alone(server, far):
    """What failed early is called for later: the use at the end is that of a run without a fault."""
    settings: dict[str, Any] = {"budget": 0.5, "mode": "strict", "batch_size": 1, "max_new_tokens": 40}
    whole = write(far(server), SOURCES, RULES["maxprob"].at(-1.0), **settings)
    there = quick(far, server, timeout=10.0, breaker=Breaker(failures=10**9))
    break_down(server, FAULTS["wrong ids"], times=4)
    traces = write(there, SOURCES, RULES["maxprob"].at(-1.0), **settings)
    assert sum(trace.degraded for trace in traces) == 4
    for trace in traces:
        spent = [trace.authors[: length + 1].count("teacher") for length in range(trace.tokens)]
        assert all(calls <= 0.5 * (length + 1) for length, calls in enumerate(spent))
    assert teacher_use(traces) == pytest.approx(teacher_use(whole), abs=0.1)


def test_online_a_call_without_an_answer_is_not_counted(server, far):
    there, budget = quick(far, server, timeout=10.0), 0.5
    break_down(server, FAULTS["wrong ids"])
    method, params = deferral(RANDOM, budget, "online"), DecodeParams(max_new_tokens=12)
    sequences = prepare_sequences(there, SOURCES, 12)
    engine, counted = Engine(there, sequences, method, params, batch_size=2), []
    while engine.busy:
        engine.step()
        assert engine.online is not None
        counted.append(engine.online.thresholds[budget].calls)
        assert counted[-1] == len(engine.calling), "those that wait, and none of those that failed"
    assert max(counted) > 0 and sum(sequence.degraded for sequence in sequences) > 3


def test_a_server_that_is_away_at_the_start_is_asked_again_later(pair, server, far, monkeypatch):
    seconds = [0.0]
    server.fault = lambda handler, body: handler.error(503, "loading") or True
    teacher = RemoteTeacher(server.url, NAME, attempts=1, breaker=Breaker(clock=lambda: seconds[0]))
    there = RemotePair(pair.student, teacher, pair.tokenizer)
    assert there.probe is None and teacher.breaker.state == OPEN
    assert sum(trace.degraded for trace in write(there, SOURCES, MAXPROB, **LONG)) > 5
    assert len(server.bodies) == 1
    seconds[0], server.fault = 5.0, None
    traces = write(there, SOURCES, MAXPROB, **LONG)
    assert [trace.token_ids for trace in traces] == [t.token_ids for t in write(pair, SOURCES, MAXPROB, **LONG)]
    assert not any(trace.degraded for trace in traces)
    teacher.close()


@pytest.mark.parametrize("url", ["http://teacher.invalid/v1", "http://127.0.0.1:9/v1"])
def test_a_host_that_is_not_there(pair, url, monkeypatch):
    def nowhere(*args: Any, **kwargs: Any) -> Any:
        raise OSError("Name or service not known")

    if "invalid" in url:
        monkeypatch.setattr("socket.getaddrinfo", nowhere)
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    teacher = RemoteTeacher(url, NAME, attempts=1)
    traces = write(RemotePair(pair.student, teacher, pair.tokenizer), SOURCES, MAXPROB, **LONG)
    assert all(trace.tokens for trace in traces) and sum(trace.degraded for trace in traces) > 5
    with pytest.raises(WheelsError, match=r"the teacher failed: .* gives no answer: ConnectError"):
        RemotePair(pair.student, RemoteTeacher(url, NAME, attempts=1, on_error="stop"), pair.tokenizer)
    teacher.close()


def test_half_open_one_text_is_a_trial(pair, server, far):
    seconds = [0.0]
    breaker = Breaker(clock=lambda: seconds[0])
    there = quick(far, server, timeout=10.0, breaker=breaker)
    for _ in range(3):
        breaker.failed()
    seconds[0] = 6.0
    break_down(server, FAULTS["wrong ids"], times=1)
    write(there, SOURCES, RULES["maxprob"].at(-1.0), max_new_tokens=1)
    assert [len(body["prompt"]) for body in server.asked] == [1] and breaker.state == OPEN
    seconds[0] = 16.0
    before = len(server.bodies)
    traces = write(there, SOURCES, RULES["maxprob"].at(-1.0), max_new_tokens=1)
    assert [len(body["prompt"]) for body in server.bodies[before:]] == [1, len(SOURCES) - 1]
    assert breaker.state == CLOSED and not any(trace.degraded for trace in traces)


def test_half_open_a_text_that_is_refused_says_that_the_server_is_well(server, far):
    seconds = [0.0]
    breaker = Breaker(clock=lambda: seconds[0])
    there = quick(far, server, timeout=10.0, breaker=breaker)
    breaker.failed(for_all=True)
    seconds[0] = 6.0
    break_down(server, FAULTS["a refusal"], times=1)
    traces = write(there, SOURCES, RULES["maxprob"].at(-1.0), max_new_tokens=1)
    assert breaker.state == CLOSED and sum(trace.degraded for trace in traces) == 1
    assert [len(body["prompt"]) for body in server.asked] == [1, len(SOURCES) - 1], "so the others share a request"


def test_a_breaker_opens_tries_once_and_doubles_its_pause():
    seconds = [0.0]
    breaker = Breaker(2, cooldown=5.0, longest=15.0, clock=lambda: seconds[0])
    breaker.failed()
    assert breaker.state == CLOSED
    breaker.succeeded()
    breaker.failed()
    assert breaker.state == CLOSED, "in a row"
    breaker.failed()
    assert breaker.state == OPEN
    for pause in (5.0, 10.0, 15.0, 15.0):
        seconds[0] += pause - 0.1
        assert breaker.state == OPEN
        seconds[0] += 0.2
        assert breaker.state == HALF_OPEN
        breaker.failed()
    seconds[0] += 20
    breaker.succeeded()
    assert breaker.state == CLOSED and breaker.cooldown == 5.0
    breaker.failed(for_all=True)
    assert breaker.state == OPEN


def test_reasons_are_counted_and_only_so_many_told_apart(server, far, caplog):
    there, number = quick(far, server, timeout=10.0, breaker=Breaker(failures=10**9)), [0]

    def another(answer: dict[str, Any]) -> dict[str, Any]:
        number[0] += 1
        return answer | {"model": f"other {number[0]}"}

    server.change = another
    traces = write(there, SOURCES * 3, MAXPROB, batch_size=1, **LONG)
    calls = sum(trace.degraded for trace in traces)
    assert len(there.remote.failures) == REASONS + 1 and sum(there.remote.failures.values()) == calls > REASONS
    warned = [record for record in caplog.records if "the teacher failed" in record.message]
    assert len(warned) == REASONS + 1


def test_a_command_says_how_many_calls_had_no_answer(pair, server, tmp_path, capsys):
    pair.save_student(tmp_path / "q")
    break_down(server, FAULTS["wrong ids"])
    server.fault, play = (lambda handler, body: body["max_tokens"] == 1 and isinstance(body["prompt"][0], list)
                          and play(handler, body)), server.fault  # fmt: skip
    flags = ["--student", str(tmp_path / "q"), "--teacher", server.url, "--teacher-model", NAME, "--rule", "random"]
    flags += ["--teacher-budget", "0.9", "--max-new-tokens", "6"]
    assert main(["generate", *flags, "a b c"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() and re.search(r"degraded: \d+ calls without an answer", shown.err)
    assert main(["generate", *flags, "--on-teacher-error", "stop", "a b c"]) == 2
    assert "the teacher failed" in capsys.readouterr().err
