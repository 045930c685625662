"""Shards keep their limits together: exact at every moment, and what one leaves the others spend."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decoding.remote.fake_vllm import NAME, FakeVllm
from wheels.cli.main import main
from wheels.decoding.commands.shards import Shard
from wheels.decoding.remote.lease import Lease, part_of
from wheels.decoding.remote.ledger import Ledger, OverLimit
from wheels.decoding.remote.prices import Prices
from wheels.endpoints.usage import Usage
from wheels.errors import WheelsError
from wheels.models.pair import Pair
from wheels.runs import checked

DEAR = Prices(0.0, 1e-6)
"""A picodollar for each written token."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("leases")


@pytest.mark.slow
@given(
    limit=st.integers(0, 1000),
    count=st.integers(1, 6),
    order=st.permutations(range(1, 7)),
    shares=st.lists(st.floats(0, 1), min_size=6, max_size=6),
)
def test_all_that_is_held_is_the_limit_whoever_leaves(place, limit, count, order, shares):
    path = place / "lease"
    path.unlink(missing_ok=True)
    leases = {n: Lease(path, n, count, {"dollars": limit, "tokens": 7}) for n in range(1, count + 1)}
    spent = 0
    for number in order:
        if number in leases:
            before = leases[number].held()["dollars"]
            own = round(before * shares[number - 1])
            leases[number].leave({"dollars": own, "tokens": 0})
            leases[number].leave({"dollars": 0, "tokens": 0})  # once is enough
            assert leases[number].has_left and leases[number].held()["dollars"] == own
            spent += own
            assert before >= part_of(limit, number, count)
            held = sum(lease.held()["dollars"] for lease in leases.values())
            others = any(not lease.has_left for lease in leases.values())
            assert held == limit if others else held == spent
    assert spent <= limit


def test_shards_at_once_never_spend_more_and_the_last_one_spends_what_is_left(tmp_path):
    """Eight ledgers in threads: seven give up early, the last goes on until nothing is left."""
    limit, path = 10_001, tmp_path / "lease"

    def ledger(number: int) -> Ledger:
        lease = Lease(path, number, 8, {"dollars": limit})
        made = Ledger(DEAR, 0.0, tmp_path / f"ledger-{number}")
        made.join(lease)
        return made

    ledgers = {number: ledger(number) for number in range(1, 9)}

    def spend(number: int) -> int:
        own = ledgers[number]
        for call in range(10**6 if number == 8 else 40 * number):
            alone = all(each.lease.has_left for n, each in ledgers.items() if n < 8)
            try:
                request = own.reserve(5, 7)
            except OverLimit:
                if number < 8 or alone:  # as it was before: what others leave meanwhile is still to be taken
                    break
                continue
            own.settle(request, Usage(1, 5, 0, 7 - call % 2))
        if number < 8:
            own.leave()
        return own.spent

    with ThreadPoolExecutor(8) as pool:
        spent = list(pool.map(spend, ledgers))
    assert limit - 7 < sum(spent) <= limit
    assert spent[-1] > part_of(limit, 8, 8), "it has spent what others left"
    for each in ledgers.values():
        each.close()


def test_a_shard_that_was_killed_keeps_its_part_and_spends_no_more(tmp_path):
    code = f"""
        import os
        from wheels.decoding.remote.lease import Lease
        from wheels.decoding.remote.ledger import Ledger
        from wheels.decoding.remote.prices import Prices
        ledger = Ledger(Prices(0.0, 1e-6), 0.0, {str(tmp_path / "ledger")!r})
        ledger.join(Lease({str(tmp_path / "lease")!r}, 1, 2, {{"dollars": 100}}))
        ledger.reserve(1, 30)
        os._exit(9)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False).returncode == 9
    Lease(tmp_path / "lease", 2, 2, {"dollars": 100}).leave({"dollars": 10})
    again = Ledger(DEAR, 0.0, tmp_path / "ledger")
    again.join(Lease(tmp_path / "lease", 1, 2, {"dollars": 100}))
    assert (again.spent, again.budget) == (30, 50 + 40)
    again.reserve(1, 60)
    with pytest.raises(OverLimit, match="not enough left"):
        again.reserve(1, 1)
    again.close()


BEGIN = '{"shards": 2, "limits": {"dollars": 5}}'


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['{"shards": 3, "limits": {"dollars": 5}}'], "of 3 shards under the limits {'dollars': 5}, got 2"),
        ([BEGIN, '{"shard": 3, "left": {"dollars": 1}}'], "lease:2: no line"),
        ([BEGIN, '{"shard": 1, "left": {"dollars": -1}}'], "lease:2: no line"),
        ([BEGIN, '{"shard": 1, "left": {}}'], "lease:2: no line"),
        ([BEGIN, *['{"shard": 1, "left": {"dollars": 1}}'] * 2], "lease:3: no line"),
        (["no JSON"], "lease:1"),
    ],
)  # fmt: skip
def test_an_account_of_others_or_a_damaged_one_is_refused(tmp_path, lines, words):
    given = [json.dumps(checked(json.loads(line))) if line.startswith("{") else line for line in lines]
    (tmp_path / "lease").write_text("".join(f"{line}\n" for line in given))
    with pytest.raises(WheelsError) as error:
        Lease(tmp_path / "lease", 1, 2, {"dollars": 5}).held()
    assert words in str(error.value)


def test_a_line_that_was_cut_short_is_none(tmp_path):
    lease = Lease(tmp_path / "lease", 1, 2, {"dollars": 10})
    with (tmp_path / "lease").open("a") as file:
        file.write('{"shard": 2, "left": {"doll')
    assert lease.held() == {"dollars": 5}
    assert Lease(tmp_path / "lease", 1, 2, {"dollars": 10}).held() == {"dollars": 5}
    Lease(tmp_path / "lease", 2, 2, {"dollars": 10}).leave({"dollars": 1})
    assert lease.held() == {"dollars": 9}


@pytest.mark.slow
def test_shards_of_a_command_spend_what_one_of_them_leaves(pair: Pair, server: FakeVllm, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    student = str(pair.save_student(tmp_path / "student"))
    Path("in.txt").write_text("a b c\nk j i\nd e f g\ne a e a\n")

    settings = ["generate", "--student", student, "--teacher", server.url, "--teacher-model", NAME, "--rule", "random"]
    settings += ["--input", "in.txt", "--output", "out.jsonl", "--format", "json", "--max-new-tokens", "12"]
    settings += ["--teacher-budget", "1"]

    def shard(number: int, limit: int = 24) -> int:
        return main([*settings, "--max-teacher-tokens", str(limit), "--shard", f"{number}/2"])

    def rows(number: int) -> list[dict]:
        return [json.loads(line) for line in Shard(number, 2).place(Path("out.jsonl")).read_text().splitlines()]

    monkeypatch.setattr("wheels.decoding.remote.teacher.probe_cost", lambda client, tokenizer: (0, 2))
    assert shard(1) == 0
    first = sum(row["teacher_tokens"] for row in rows(1))
    assert shard(2) == 0
    second = sum(row["teacher_tokens"] for row in rows(2))
    journal = [json.loads(line) for line in Path("out.jsonl.lease").read_text().splitlines()]
    assert (
        journal[0] == checked({"shards": 2, "limits": {"tokens": 24}})
        and journal[1]["left"]["tokens"] == 12 - first - 2
    )
    assert first + second + 4 <= 24 and journal[2]["left"]["tokens"] == 24 - first - 2 - second - 2
    capsys.readouterr()
    assert shard(1) == 0 and "is done already" in capsys.readouterr().err
    for path in tmp_path.glob("out-*.jsonl.run/*"):
        path.unlink()
    for path in tmp_path.glob("out-*.jsonl"):
        path.unlink()
    assert shard(1) == 2 and "has ended by" in (told := capsys.readouterr().err) and "begin a new account" in told
    assert shard(2, 25) == 2 and "got 2 under {'tokens': 25}" in capsys.readouterr().err
