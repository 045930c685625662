import errno
import json
import os
import threading
from contextlib import suppress

import pytest

from wheels.annotation.answer import Answer
from wheels.annotation.ledger import Account, Ledger, read_account
from wheels.errors import WheelsError
from wheels.runs import append_line, checked


def ledger(path, budget=3, run="r"):
    return Ledger(path / "ledger.jsonl", budget=budget, run=run)


def lines(path):
    return [json.loads(line) for line in (path / "ledger.jsonl").read_text().split("\n")[:-1]]


def test_a_unit_is_reserved_and_settled_and_never_asked_for_again(tmp_path):
    with ledger(tmp_path) as one:
        assert one.reserve("a")
        assert not one.reserve("a")
        assert lines(tmp_path)[-1] == checked({"event": "reserve", "item": "a"}), "on disk before the request"
        one.settle("a", Answer("line\none \u2028 é"))
        assert not one.reserve("a")
    with ledger(tmp_path) as again:
        assert again.answer("a") == Answer("line\none \u2028 é")
        assert not again.reserve("a")
        assert again.account.spent == 1


def test_a_failure_frees_its_unit_and_is_not_kept(tmp_path):
    with ledger(tmp_path, budget=1) as one:
        assert one.reserve("a")
        one.release("a", "code 503")
        assert one.answer("a") is None
        assert one.reserve("b")
        with pytest.raises(WheelsError, match="the budget of 1 annotations is spent"):
            one.reserve("a")
        assert (one.account.spent, one.account.released) == (1, 1)


def test_an_open_reservation_counts_as_spent_and_goes_to_the_same_item_only(tmp_path):
    with ledger(tmp_path, budget=2) as one:
        one.reserve("a")
        one.reserve("b")
        one.settle("b", Answer("x"))
    with ledger(tmp_path, budget=2) as again:
        assert again.recovered == {"a"}
        assert again.account.spent == 2
        with pytest.raises(WheelsError, match="spent"):
            again.reserve("c")
        assert again.reserve("a")
        assert not again.reserve("a")
        again.settle("a", Answer("y"))
    assert [line["event"] for line in lines(tmp_path)] == ["begin", "reserve", "reserve", "settle", "settle"]


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_last_line_that_was_cut_short_is_as_if_it_never_was(tmp_path, cut):
    with ledger(tmp_path) as one:
        one.reserve("a")
        one.settle("a", Answer("the answer"))
    file = tmp_path / "ledger.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    assert read_account(file).open == {"a"}
    with ledger(tmp_path) as again:
        assert again.answer("a") is None
        assert again.reserve("a")
        again.settle("a", Answer("the answer"))
    assert file.read_bytes() == whole


def test_a_first_line_that_was_cut_short_begins_anew(tmp_path):
    (tmp_path / "ledger.jsonl").write_bytes(b'{"event": "beg')
    with ledger(tmp_path) as one:
        assert one.reserve("a")
    assert [line["event"] for line in lines(tmp_path)] == ["begin", "reserve"]


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ('{"event": "settle", "item": "a", "answer": "x"}', ":2: item a: settle without a reservation"),
        ('{"event": "reserve", "item": "a"}\n{"event": "reserve", "item": "a"}', ":3: item a is reserved twice"),
        ('{"event": "reserve", "item": "a"}\n{"event": "settle", "item": "a"}', ":3: not a line of a ledger"),
        ('{"event": "reserve", "item": "a"}\n{"event": "reserve", "item": "b"}', ":3: the budget of 1 annotations"),
        (
            '{"event": "reserve", "item": "a"}\n{"event": "refuse", "item": "a", "reason": "x"}\n'
            '{"event": "reserve", "item": "a"}',
            ":4: item a is reserved twice",
        ),
        ('{"event": "budget", "budget": 1}', ":2: a budget of 1 can only grow, got 1"),
        ('{"event": "budget"}', ":2: not a line of a ledger"),
        ('{"event": "refuse", "item": "a", "reason": "x"}', ":2: item a: refuse without a reservation"),
        ("{}", ":2: not an event"),
    ],
)
def test_what_no_run_of_ours_can_have_written_is_refused_with_its_line(tmp_path, last, message):
    with ledger(tmp_path, budget=1):
        pass
    for line in last.split("\n"):
        append_line(tmp_path / "ledger.jsonl", checked(json.loads(line)))
    with pytest.raises(WheelsError, match=f"ledger.jsonl{message}"):
        ledger(tmp_path, budget=1)


@pytest.mark.parametrize("line", ["[]", "{}", "[" * 100_000 + "]" * 100_000, "\xff", "\0\0", '{"event": "reserve"}'])
def test_what_has_no_checksum_is_refused_with_its_line(tmp_path, line):
    with ledger(tmp_path, budget=1):
        pass
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(WheelsError, match=r"ledger.jsonl:2: "):
        ledger(tmp_path, budget=1)


def test_a_bit_that_was_flipped_anywhere_is_seen(tmp_path):
    """Or the values are the same: of the white space."""
    with ledger(tmp_path) as one:
        one.reserve("a")
        one.settle("a", Answer("the answer"))
    file = tmp_path / "ledger.jsonl"
    whole, before = file.read_bytes(), read_account(file)
    assert len(whole) > 100
    for place in range(len(whole) - 1):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with suppress(WheelsError):
            assert read_account(file) == before


def test_another_run_and_another_holder_are_refused(tmp_path):
    with ledger(tmp_path) as one:
        one.reserve("a")
        with pytest.raises(WheelsError, match="is held by another process; wait until it ends"):
            ledger(tmp_path)
    with pytest.raises(WheelsError, match="of a run with run 'r', not 's'; give another --output"):
        ledger(tmp_path, run="s")


def test_a_ledger_in_which_nothing_was_bought_is_begun_anew_by_any_run(tmp_path):
    with ledger(tmp_path) as one:
        one.reserve("a")
        one.release("a", "code 503")
        one.reserve("b")
        one.refuse("b", "code 400")
    with ledger(tmp_path, run="s", budget=1) as again:
        assert (again.account.run, again.account.budget, again.account.refused) == ("s", 1, {})
        assert again.reserve("b")
    assert [line["event"] for line in lines(tmp_path)] == ["begin", "reserve"]


def test_a_refusal_frees_its_unit_and_is_not_asked_again(tmp_path):
    with ledger(tmp_path, budget=1) as one:
        assert one.reserve("a")
        one.refuse("a", "code 400: too long")
        assert not one.reserve("a")
        assert one.reserve("b")
        one.settle("b", Answer("half", "cut"))
    with ledger(tmp_path, budget=1) as again:
        assert again.account.refused == {"a": "code 400: too long"}
        assert again.answer("b") == Answer("half", "cut"), "what is of no use was paid for too"
        assert (again.account.spent, again.account.released) == (1, 0)
        assert not again.reserve("a")


def test_a_budget_can_grow_and_not_shrink(tmp_path):
    with ledger(tmp_path, budget=1) as one:
        one.reserve("a")
    with ledger(tmp_path, budget=2) as more:
        assert (more.account.budget, more.account.first_budget) == (2, 1)
        assert more.reserve("b")
        with pytest.raises(WheelsError, match="the budget of 2 annotations is spent"):
            more.reserve("c")
    assert read_account(tmp_path / "ledger.jsonl") == more.account
    for budget in (1, None):
        with pytest.raises(WheelsError, match=f"a budget of 2, which can only grow, got {budget}; give at least 2"):
            ledger(tmp_path, budget=budget)
    assert [line["event"] for line in lines(tmp_path)] == ["begin", "reserve", "budget", "reserve"]


def test_threads_never_overspend_nor_share_an_item(tmp_path):
    won, refused = [], []

    def work(one):
        for item in range(30):
            try:
                if one.reserve(str(item % 20)):
                    won.append(item % 20)
                    one.settle(str(item % 20), Answer("x")) if item % 3 else one.release(str(item % 20), "no")
            except WheelsError:
                refused.append(item)

    with ledger(tmp_path, budget=12) as one:
        threads = [threading.Thread(target=work, args=(one,)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    account = read_account(tmp_path / "ledger.jsonl")
    assert account.spent == 12
    assert refused
    assert account == one.account


def test_an_account_without_a_budget_has_no_limit():
    account = Account(None)
    for item in "abc":
        account.apply({"event": "reserve", "item": item})
    assert (account.spent, account.free) == (3, float("inf"))


def test_a_full_disk_within_a_line_loses_no_answer(tmp_path, monkeypatch):
    write = os.write

    def full(handle, data):
        if b"settle" in data:
            return write(handle, data[:9])
        raise OSError(errno.ENOSPC, "No space left on device")

    with ledger(tmp_path) as one:
        one.reserve("a")
        one.settle("a", Answer("A"))
        one.reserve("b")
        one.reserve("c")
        with monkeypatch.context() as patch, pytest.raises(WheelsError, match="No space left on device; make room"):
            patch.setattr(os, "write", full)
            one.settle("b", Answer("B"))
        one.settle("c", Answer("C"))  # by another thread, which was on its way
    with ledger(tmp_path) as again:
        assert (again.answer("a"), again.answer("c"), again.recovered) == (Answer("A"), Answer("C"), {"b"})
        assert again.reserve("b")
        again.settle("b", Answer("B"))
    assert read_account(tmp_path / "ledger.jsonl").spent == 3
