"""Shards of `wheels generate`, those of a launch's processes, and their merge."""

import dataclasses
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.decoding.commands.conftest import TEXTS
from tests.decoding.commands.test_bulk import MODES, lines
from tests.marks import slow
from wheels.cli.main import main
from wheels.data.formats import read_records
from wheels.decoding import streaming
from wheels.decoding.commands import bulk
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.decoding.commands.shards import Shard, all_shards
from wheels.decoding.methods.online import RATE
from wheels.errors import WheelsError
from wheels.runs import checked

NUMBER = 14


@pytest.fixture
def write(call, tmp_path, monkeypatch):
    """Return a function that writes a file of some blocks of texts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(streaming, "BLOCK", 4)
    Path("in.txt").write_text("".join(f"{text}\n" for text in itertools.islice(itertools.cycle(TEXTS), NUMBER)))

    def run(output: str, *flags: str, shard: str | None = None) -> tuple[int, str, str]:
        budget = [] if "speculative" in flags else ["--teacher-budget", "0.5"]
        part = [] if shard is None else ["--shard", shard]
        return call("--input", "in.txt", "--output", output, *budget, "--batch-size", "1", *flags, *part)

    return run


def merge(capsys, output: str = "out.jsonl") -> tuple[int, str]:
    code = main(["merge", output])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(("total", "count"), [(14, 3), (3, 3), (2, 3), (0, 2), (100, 7)])
def test_shards_are_all_rows_in_order_and_alike(total, count):
    rows = [shard.rows(total) for shard in all_shards(count)]
    assert list(itertools.chain.from_iterable(rows)) == list(range(total))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2", "1/0", " 1/2"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(WheelsError, match="shard must be I/N with I from 1 to N, such as 2/8, got"):
        GenerateConfig(input="in.txt", output="out", shard=text)


@pytest.mark.parametrize("flags", [["text"], ["--input", "a"], ["--input", "a", "--output", "b", "--format", "html"]])
def test_a_shard_is_of_a_file_and_goes_into_a_file(call, flags):
    code, _, err = call(*flags, "--shard", "1/2")
    assert code == 2 and "shard 1/2 is written from a file into a file; give --input FILE and --output FILE" in err


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sampled", *slow(*(mode for mode in MODES if mode not in ("online", "sampled")))])
def test_merged_shards_are_the_whole_run(write, capsys, mode):
    flags = ["--format", "json", *MODES[mode]]
    whole = write("whole.jsonl", *flags)[2].splitlines()[-1]
    for shard in ("3/3", "1/3", "2/3"):
        assert write("out.jsonl", *flags, shard=shard)[0] == 0
    code, err = merge(capsys)
    assert (code, err.splitlines()) == (0, ["written to out.jsonl: 3 shards", whole])
    assert lines(Path("out.jsonl")) == lines(Path("whole.jsonl")) and len(lines(Path("out.jsonl"))) == NUMBER
    assert write("out.jsonl", *flags)[2].splitlines() == ["out.jsonl is done already", whole]


@pytest.mark.slow
def test_a_table_is_the_lines_in_columns(write, capsys):
    assert write("whole.jsonl", "--format", "json")[0] == write("whole.parquet", "--format", "parquet")[0] == 0
    for shard in ("1/2", "2/2"):
        assert write("out.parquet", "--format", "parquet", shard=shard)[0] == 0
    assert merge(capsys, "out.parquet")[0] == 0
    expected = lines(Path("whole.jsonl"))
    for name in ("whole.parquet", "out.parquet"):
        found = [row | {"seconds": 0} for _, row in read_records(name)]
        assert [row.pop("bill") for row in found] == [row.pop("error") for row in found] == [None] * NUMBER
        assert found == expected


def test_a_table_goes_into_a_file(call):
    code, _, err = call("--format", "parquet", "a b")
    assert code == 2 and "format 'parquet' is written from a file into a file" in err


def test_gaps_overlaps_other_settings_and_damage_are_refused(write, capsys):
    def refused(message: str) -> None:
        code, err = merge(capsys)
        assert code == 2 and re.search(message, err), err
        assert not Path("out.jsonl").exists()

    refused("out.jsonl: no shard of it is there, such as out-00001-of-00002.jsonl; write them by")
    write("out.jsonl", shard="1/3")
    write("out.jsonl", "--max-new-tokens", "7", shard="3/3")
    refused("out.jsonl: shard 2/3 is missing; write it, then merge again")
    write("out.jsonl", shard="2/3")
    refused("out-00003-of-00003.jsonl is of a run with max_new_tokens 7, not 8; write all shards with the same")
    write("out.jsonl", shard="1/2")
    refused("out.jsonl: shards of 2 and of 3 are there, which overlap; remove those of one split")
    Path("out-00001-of-00002.jsonl").unlink()
    shutil.rmtree("out-00001-of-00002.jsonl.run")
    write("out.jsonl", shard="3/3")
    part = Path("out-00002-of-00003.jsonl")
    content = part.read_bytes()
    part.write_bytes(content[:-3])
    refused("out-00002-of-00003.jsonl is gone or damaged; run its shard again, then merge")
    part.write_bytes(content)
    note = Path("out-00001-of-00003.jsonl.run/run.json")
    told = json.loads(note.read_text())
    note.write_text(json.dumps(checked({key: told[key] for key in told if key not in ("finished", "crc32")})))
    refused("out-00001-of-00003.jsonl is not finished; run its shard again, which goes on, then merge")
    write("out.jsonl", shard="1/3")
    assert merge(capsys)[0] == 0 and len(Path("out.jsonl").read_text().splitlines()) == NUMBER


def test_processes_that_are_started_together_share_the_rows(write, monkeypatch):
    whole = write("whole.jsonl")[2].splitlines()[-1]
    for rank in ("1", "0"):
        assert not Path("out.jsonl").exists()
        with monkeypatch.context() as patch:
            patch.setenv("WORLD_SIZE", "2")
            patch.setenv("RANK", rank)
            code, _, err = write("out.jsonl")
            assert code == 0 and "RANK" not in os.environ
    assert "written to" in err and "the outputs of 2 processes" in err
    assert Path("out.jsonl").read_text() == Path("whole.jsonl").read_text()
    assert sorted(path.name for path in Path().glob("out*")) == ["out.jsonl", "out.jsonl.run"]
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        patch.setenv("RANK", "1")
        assert write("out.jsonl")[2] == "out.jsonl is done already\n"
    assert write("out.jsonl")[2].splitlines() == ["out.jsonl is done already", whole], "alone"


def test_processes_that_are_started_together_need_a_file(call, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    code, out, err = call("a b c")
    assert (code, out) == (2, "") and "share the rows of a file; give --input FILE and --output FILE" in err


def test_processes_that_are_started_together_take_no_other_shard(write, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "share the rows by rank; leave out shard 1/2" in write("out.jsonl", shard="1/2")[2]


def test_each_process_has_a_device_of_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [bulk._own_device(device) for device in ("cuda", "cuda:1", "cpu")] == ["cuda:3", "cuda:1", "cpu"]


def test_what_a_teacher_may_cost_is_shared_among_the_shards(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    limits = {"budget_dollars": 1.0, "max_teacher_requests": 10, "max_teacher_tokens": 11}
    remote = {"teacher": "http://h/v1", "teacher_model": "m", "prices": ("prompt=1", "completion=1")}
    config = GenerateConfig(input="a", output="b", shard="2/4", **remote, **limits)
    lease = bulk.lease_of(config, Shard.of("2/4"), tmp_path / "lease")
    own = bulk._accounted(config, tmp_path / "ledger", lease)
    assert [getattr(own, name) for name in limits] == [0.25, 3, 3] and own.ledger == str(tmp_path / "ledger")
    with pytest.raises(WheelsError, match="shard 2/4 keeps a ledger of its own beside its output, got money; leave it"):
        dataclasses.replace(config, ledger="money")
    alone = dataclasses.replace(config, shard=None, ledger="money")
    assert bulk._accounted(alone, tmp_path / "ledger", None) == alone


def test_in_online_mode_each_shard_keeps_its_bound_and_all_of_them_the_sum(write, capsys):
    """|calls - budget * tokens| <= (reach + RATE) / RATE in each (`wheels.decoding.methods.online`)."""
    budget, calls, tokens = 0.5, 0, 0
    bound = (1 + max(budget, 1 - budget) + RATE) / RATE
    for shard in ("1/2", "2/2"):
        write("out.jsonl", "--budget-mode", "online", "--format", "json", shard=shard)
        rows = lines(Shard.of(shard).place(Path("out.jsonl")))
        own = sum(row["teacher_tokens"] for row in rows), sum(len(row["tokens"]) for row in rows)
        assert abs(own[0] - budget * own[1]) <= bound
        calls, tokens = calls + own[0], tokens + own[1]
    assert f"{calls} of {tokens} tokens" in merge(capsys)[1]
    assert abs(calls - budget * tokens) <= 2 * bound


@pytest.mark.slow
def test_torchrun_writes_the_whole_file(folder, tmp_path):
    (tmp_path / "in.txt").write_text("\n".join(TEXTS * 5))
    flags = ["generate", "--model", str(folder), "--rule", "random", "--teacher-budget", "0.5", "--max-new-tokens", "8"]
    flags += ["--input", str(tmp_path / "in.txt"), "--output"]
    assert main([*flags, str(tmp_path / "whole")]) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "wheels"]
    subprocess.run([*launch, *flags, str(tmp_path / "out")], check=True, capture_output=True)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
