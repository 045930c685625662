"""What calls cost, and the ceiling that holds whatever happens."""

import json
import random
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.decoding.remote.fake_vllm import FakeVllm
from tests.decoding.remote.test_faults import FAULTS, break_down, quick
from tests.decoding.tiny import write
from tests.envs.tiny import SOURCES
from wheels.decoding.methods.method import student_only, teacher_only
from wheels.decoding.methods.rules import RULES
from wheels.decoding.remote.ledger import Ledger, OverLimit
from wheels.decoding.remote.prices import PICO, Prices, bill_of
from wheels.decoding.sampling import Sampling
from wheels.endpoints.usage import Usage, usage_of
from wheels.errors import WheelsError
from wheels.runs import checked

pytestmark = pytest.mark.slow

LONG = {"max_new_tokens": 12}
MAXPROB = RULES["maxprob"].at(0.6)
PRICES = Prices(prompt=0.4, completion=1.6, cached=0.1)


def told_by(server: FakeVllm) -> Usage:
    """What the requests with token ids used, counted from what was sent and what the model writes."""
    prompts = [prompt for body in server.asked for prompt in body["prompt"]]
    return Usage(len(server.asked), sum(map(len, prompts)), 0, len(prompts))


@pytest.mark.parametrize(
    ("given", "prices"),
    [
        (("prompt=0.40", "cached=0.10", "completion=1.60"), PRICES),
        (("completion=2", "prompt=1"), Prices(1.0, 2.0)),
        (("completion=0", "prompt=0"), Prices(0.0, 0.0)),
    ],
)
def test_prices_of_words(given, prices):
    assert Prices.of(given) == prices


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("prompt=1",), "must have prompt and completion, each once, got prompt=1"),
        (("prompt=1", "prompt=2", "completion=1"), "each once"),
        (("prompt=1", "completion=x"), "must be like prompt=0.40,cached=0.10,completion=1.60, got 'completion=x'"),
        (("prompt=1", "completion=nan"), "must be like"),
        (("prompt=1", "completion=-1"), "the price of completion tokens must be at least 0"),
        (("prompt=1", "completions=1"), "must be like"),
        (("0.4",), "must be like"),
    ],
)
def test_words_that_are_no_prices(given, words):
    with pytest.raises(WheelsError, match=words):
        Prices.of(given)


def test_a_bill_by_hand():
    usage = Usage(3, prompt=1000, cached=600, completion=50)
    assert PRICES.dollars(usage) == pytest.approx((400 * 0.4 + 600 * 0.1 + 50 * 1.6) / 1e6)
    assert Prices(0.4, 1.6).dollars(usage) == pytest.approx((1000 * 0.4 + 50 * 1.6) / 1e6), "no price of its own"
    bill = bill_of(PRICES, usage, source=400, tokens=100)
    assert bill.teacher_dollars == pytest.approx((400 * 0.4 + 100 * 1.6) / 1e6)
    assert bill_of(None, usage, 400, 100).dollars is None


def test_the_usage_of_a_request_is_split_and_nothing_is_lost():
    whole = Usage(1, prompt=90, cached=30, completion=7)
    parts = whole.shared([10, 20, 60], [0, 1, 6])
    assert [part.prompt for part in parts] == [10, 20, 60] and [part.cached for part in parts] == pytest.approx(
        [10 / 3, 20 / 3, 20]
    )
    assert [part.completion for part in parts] == [0, 1, 6]
    assert [part.completion for part in whole.shared([1, 1], [0, 0])] == [3.5, 3.5]


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 2}, Usage(1, 9, 0, 2)),
        (
            {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 8}, "completion_tokens": 2},
            Usage(1, 9, 8, 2),
        ),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 80}}, Usage(1, 9, 9, 4)),
        ({"prompt_tokens": -1, "completion_tokens": "many", "prompt_tokens_details": None}, Usage(1, 7, 0, 4)),
        ({}, Usage(1, 7, 0, 4)),
    ],
)
def test_what_a_server_does_not_tell_is_counted(told, usage):
    assert usage_of(told, 7, 4) == usage


def test_a_ceiling_holds_under_32_threads():
    ledger, lock, most = Ledger(PRICES, budget=0.01), random.Random(0), []
    sizes = [(lock.randrange(50, 4000), lock.randrange(1, 200)) for _ in range(4000)]

    def one(size: tuple[int, int]) -> int:
        read, wrote = size
        try:
            request = ledger.reserve(read, wrote)
        except OverLimit:
            return 0
        finally:
            most.append(ledger.spent + ledger.reserved)
        if read % 5 == 0:
            ledger.release(request)
            return 0
        used = Usage(1, read, read // 2, wrote // 2)
        ledger.settle(request, used)
        return PRICES.pico(used)

    with ThreadPoolExecutor(32) as pool:
        paid = sum(pool.map(one, sizes))
    assert ledger.spent == paid and ledger.reserved == 0
    assert max(most) <= ledger.budget == 0.01 * PICO and ledger.spent > 0.9 * ledger.budget


def test_what_is_reserved_is_not_there_for_others():
    ledger = Ledger(Prices(1.0, 2.0), budget=1e-3)
    request = ledger.reserve(600, 0)
    for over in ((401, 0), (0, 201)):
        with pytest.raises(OverLimit, match=r"budget_dollars 0\.001 has not enough left for another call"):
            ledger.reserve(*over)
    ledger.reserve(0, 200)
    ledger.release(request)
    ledger.reserve(600, 0)


def test_a_request_is_reserved_with_all_the_tokens_that_it_may_bring(server, far):
    there = far(server, prices=Prices(0.0, 1.0), budget_dollars=20e-6, span="tokens:12", on_error="continue")
    assert there.remote.ledger.spent == 2 * 10**6, "the probe writes two tokens, and 18 are left"
    write(there, SOURCES, teacher_only(), budget=1.0, **LONG)
    assert next(len(body["prompt"]) for body in server.asked) == 1, "six texts of 12 tokens each do not fit"
    assert there.remote.ledger.spent <= 20 * 10**6


def test_a_ledger_goes_on_after_a_kill(tmp_path):
    path = tmp_path / "money.jsonl"
    code = f"""
        import os
        from wheels.decoding.remote.ledger import Ledger, OverLimit
        from wheels.decoding.remote.prices import Prices
        from wheels.endpoints.usage import Usage
        ledger = Ledger(Prices(1.0, 1.0), 1.0, {str(path)!r})
        first, second, third = (ledger.reserve(1000, 0) for _ in range(3))
        ledger.settle(first, Usage(1, 400, 0, 0))
        ledger.release(second)
        os._exit(9)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False).returncode == 9
    with path.open("ab") as file:
        file.write(b'{"event": "settle", "request": 3, "pi')  # cut short
    for _ in range(2):
        ledger = Ledger(Prices(1.0, 1.0), 1.0, path)
        assert ledger.spent == 1400 * 10**6 and ledger.reserved == 0, "what was open counts as spent, each time"
        ledger.close()
    again = Ledger(Prices(1.0, 1.0), 1400e-6 + 100e-6, path)
    with pytest.raises(WheelsError, match="is held by another process"):
        Ledger(Prices(1.0, 1.0), 1.0, path)
    with pytest.raises(OverLimit, match="has not enough left"):
        again.reserve(101, 0)
    request = again.reserve(100, 0)
    assert request == 4
    again.settle(request, Usage(1, 100, 0, 0))
    again.close()
    events = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert events == ["reserve"] * 3 + ["settle", "release", "reserve", "settle"]


@pytest.mark.parametrize(
    "line", ["[]", '{"event": "settle", "request": 1}', '{"event": "pay", "request": 1}', '{"event": "reserve"}', "x",
             '{"event": "reserve", "request": 1, "pico": -5}'],
)  # fmt: skip
def test_a_file_that_is_no_ledger_is_refused(tmp_path, line):
    given = json.loads(line) if line.startswith("{") else None
    (tmp_path / "money").write_text((line if given is None else json.dumps(checked(given))) + "\n")
    with pytest.raises(WheelsError, match=r"money:1"):
        Ledger(PRICES, 1.0, tmp_path / "money")
    with pytest.raises(WheelsError, match="needs prices"):
        Ledger(None, 1.0)


@pytest.mark.parametrize("batches", [1, 4])
def test_every_output_says_what_it_cost_and_all_of_them_are_the_ledger(pair, server, far, batches):
    def cached(answer: dict[str, Any]) -> dict[str, Any]:
        answer["usage"]["prompt_tokens_details"] = {"cached_tokens": answer["usage"]["prompt_tokens"] // 2}
        return answer

    there = far(server, prices=PRICES)
    probe = there.remote.ledger.spent
    assert probe == PRICES.pico(there.probe.usage) > 0
    server.change = cached
    traces = write(there, SOURCES, MAXPROB, batch_size=batches, **LONG)
    told = told_by(server)
    used = there.remote.ledger.usage
    assert used.requests == len(server.asked) + 1, "and the probe"
    assert (used.prompt, used.completion) == pytest.approx(
        (told.prompt + there.probe.usage.prompt, told.completion + there.probe.usage.completion)
    )
    paid = sum(trace.bill.dollars for trace in traces) * PICO
    assert paid == pytest.approx(there.remote.ledger.spent - probe, abs=len(SOURCES) * 10), "picodollars"
    assert sum(trace.bill.usage.cached for trace in traces) > 0.3 * told.prompt
    for source, trace in zip(pair.encode(SOURCES), traces, strict=True):
        alone = PRICES.dollars(Usage(1, len(source), 0, trace.tokens))
        assert trace.bill.teacher_dollars == alone
        assert trace.to_json()["bill"]["dollars"] == trace.bill.dollars
    assert sum(trace.bill.usage.completion for trace in traces) == sum(trace.teacher_tokens for trace in traces)


@pytest.mark.parametrize("budget", [3e-5, 1e-4, 3e-4])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_ceiling_is_kept_and_every_text_is_written(pair, server, far, budget, temperature):
    there = far(server, prices=PRICES, budget_dollars=budget, on_error="continue")
    settings: dict[str, Any] = LONG | {"sampling": Sampling(temperature)}
    traces = write(there, SOURCES * 3, teacher_only(), budget=1.0, **settings)
    ledger = there.remote.ledger
    assert ledger.spent <= ledger.budget and ledger.reserved == 0
    free = write(far(server, prices=PRICES), SOURCES * 3, teacher_only(), budget=1.0, **settings)
    if sum(trace.bill.dollars for trace in free) > budget:
        assert ledger.spent > 0.8 * ledger.budget, "the last call does not fit"
        assert any(trace.degraded for trace in traces)
        assert f"budget_dollars {budget:g} has not enough left for another call" in there.remote.failures
    assert all(trace.tokens for trace in traces)


def test_a_run_that_goes_on_spends_what_is_left(pair, server, far, tmp_path):
    settings: dict[str, Any] = {
        "prices": PRICES,
        "budget_dollars": 1e-4,
        "ledger": tmp_path / "money",
        "on_error": "continue",
    }
    spent = []
    for _ in range(3):
        there = far(server, **settings)
        traces = write(there, SOURCES, teacher_only(), budget=1.0, **LONG)
        spent.append(there.remote.ledger.spent)
        there.remote.close()
    assert spent[0] <= spent[1] <= spent[2] <= 1e-4 * PICO
    alone = write(pair, SOURCES, student_only(), budget=0.0, **LONG)
    last = [trace.token_ids for trace in traces if not trace.teacher_tokens]
    assert last and set(last) <= {trace.token_ids for trace in alone}


def test_a_budget_that_does_not_pay_for_the_probe(server, far):
    with pytest.raises(WheelsError, match="budget_dollars 1e-09 has not enough left for another call"):
        far(server, prices=PRICES, budget_dollars=1e-9)
    assert not server.bodies


@pytest.mark.parametrize(
    ("fault", "paid"), [("5xx", False), ("a refusal", True), ("wrong ids", True), ("another model", True)]
)
def test_what_was_not_answered_costs_nothing_and_what_was_does(server, far, fault, paid):
    there = quick(far, server, timeout=10.0, prices=PRICES)
    probe = there.remote.ledger.spent
    break_down(server, FAULTS[fault])
    traces = write(there, SOURCES, MAXPROB, **LONG)
    ledger = there.remote.ledger
    assert ledger.reserved == 0 and (ledger.spent > probe) is paid
    assert sum(trace.bill.dollars for trace in traces) * PICO == pytest.approx(ledger.spent - probe)
