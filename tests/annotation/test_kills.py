"""`wheels annotate` against a server that fails at random, killed again and again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.annotation.faulty_server import FaultyServer
from wheels.annotation.ledger import read_account
from wheels.cli.main import main

ROOT = Path(__file__).parents[2]
# The whole trial, with WHEELS_KILLS=20, takes about a minute.
KILLS = int(os.environ.get("WHEELS_KILLS", "2"))
ITEMS = 75 * KILLS
BUDGET = ITEMS - 20


def command(folder, url, *more):
    return [sys.executable, "-m", "wheels", "annotate", "--input", str(folder / "pool.jsonl"), "--output",
            str(folder / "out"), "--annotation-budget", str(BUDGET), "--teacher", url, "--teacher-model", "m",
            "--select", "random", "--workers", "32", "--timeout", "1", "--backoff", "0.01", "--attempts", "50",
            *more]  # fmt: skip


def pool(folder):
    folder.mkdir()
    lines = [json.dumps({"source": f"question {number}"}) + "\n" for number in range(ITEMS)]
    (folder / "pool.jsonl").write_text("".join(lines))
    return folder


@pytest.mark.slow
def test_no_item_is_paid_twice_and_the_budget_holds_over_kills_and_faults(tmp_path):
    chance = random.Random(0)
    plain, killed = pool(tmp_path / "plain"), pool(tmp_path / "killed")
    with FaultyServer() as server:
        assert main(command(plain, server.url)[3:]) == 0
        assert len(server.charged) == BUDGET
    open_at_kill, kills = [], 0
    with FaultyServer(share=0.3, delay=0.12, hang=1.1, seed=1) as server:
        ledger = killed / "out" / "ledger.jsonl"
        while kills < KILLS:
            before = len(server.charged)
            process = subprocess.Popen(command(killed, server.url), cwd=ROOT, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE)  # fmt: skip
            # Wait until the process is at work, then kill it at any moment.
            while len(server.charged) == before and process.poll() is None:
                time.sleep(0.005)
            time.sleep(chance.uniform(0.0, 0.15))
            assert process.poll() is None, f"it ended before it was killed: {process.communicate()[1]}"
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            account = read_account(ledger)  # every line is checked: no item settled twice, no unit too many
            assert account.spent <= BUDGET
            assert len(server.charged) <= BUDGET
            open_at_kill.append(len(account.open))
        subprocess.run(command(killed, server.url), check=True, capture_output=True, cwd=ROOT)
        account = read_account(ledger)
        assert (len(account.settled), len(account.open)) == (BUDGET, 0)
        assert set(server.charged) == {f"{account.run}-{item}" for item in account.settled}
        assert server.most_at_once >= (24 if KILLS >= 20 else 12)
        assert all(server.seen[fault] for fault in server.faults)
    assert sum(open_at_kill) > 0, "no kill hit a request under way: the trial has tried nothing"
    assert (killed / "out" / "annotated.jsonl").read_bytes() == (plain / "out" / "annotated.jsonl").read_bytes()
    lost = sum(server.completed.values()) - len(server.charged)
    print(f"{kills} kills; open reservations at each: {open_at_kill}; {sum(server.seen.values())} requests "
          f"({dict(server.seen)}), at most {server.most_at_once} at once; {len(server.charged)} items charged of a "
          f"budget of {BUDGET}; {lost} answers were finished again for a key that had been charged")  # fmt: skip
