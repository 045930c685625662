"""`wheels generate` from a file into a file: what is written stays, and the same command goes on."""

import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.decoding.commands.conftest import TEXTS
from tests.decoding.remote.fake_vllm import NAME, fake_vllm
from wheels.decoding import streaming
from wheels.decoding.commands import bulk, generate
from wheels.models.pair import Pair
from wheels.runs import Lines

pytestmark = pytest.mark.slow

MODES = {
    "average": [],
    "strict": ["--budget-mode", "strict"],
    "sampled": ["--temperature", "1.5", "--seed", "3"],
    "speculative": ["--method", "speculative", "--temperature", "1"],
    "online": ["--budget-mode", "online"],
}
NUMBER = 23


@pytest.fixture
def texts(tmp_path, monkeypatch) -> Path:
    """A file of some blocks of texts, in parts of eight."""
    for module, name, value in ((streaming, "BLOCK", 4), (generate, "PART", 8), (bulk, "PART", 8), (bulk, "EVERY", 0)):
        monkeypatch.setattr(module, name, value)
    path = tmp_path / "in.txt"
    path.write_text("".join(f"{text}\n" for text in itertools.islice(itertools.cycle(TEXTS), NUMBER)))
    return path


@pytest.fixture
def written(call, texts):
    """Return a function that writes the file into another, killed after some texts where that is asked for."""

    def run(output: Path, *flags: str, until: int | None = None, kill: type[BaseException] = KeyboardInterrupt):
        budget = [] if "speculative" in flags else ["--teacher-budget", "0.5"]
        with pytest.MonkeyPatch.context() as patch:
            if until is not None:
                seen, count = itertools.count(1), bulk.count

                def counted(*args):
                    if next(seen) > until:
                        raise kill
                    count(*args)

                patch.setattr(bulk, "count", counted)
            return call("--input", str(texts), "--output", str(output), "--batch-size", "1", *budget, *flags)

    return run


def lines(path: Path) -> list[object]:
    """Return what a file of outputs holds but the times."""
    return [json.loads(line) | {"seconds": 0} for line in path.read_text().splitlines()]


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_was_cut_short_goes_on_and_ends_with_the_same_file(written, tmp_path, mode):
    flags = ["--format", "json", *MODES[mode]]
    code, _, whole = written(tmp_path / "whole", *flags)
    assert code == 0
    for until in (0, 5, 10):
        code, _, err = written(tmp_path / "cut", *flags, until=until)
        assert code == 130 and "run the same command again to continue" in err and not (tmp_path / "cut").exists()
    rows = tmp_path / "cut.run" / "rows"
    kept = Lines(rows).count
    assert kept == 8 if mode == "online" else kept == 5 + 10
    code, _, err = written(tmp_path / "cut", *flags)
    assert code == 0 and f"{kept} of {NUMBER} texts are written already" in err
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole") and len(lines(tmp_path / "cut")) == NUMBER
    assert err.splitlines()[-1] == whole.splitlines()[-1], "the summary is of all texts"
    assert not rows.exists()


def test_a_finished_run_is_done_already_while_its_output_is_whole(written, tmp_path, monkeypatch, caplog):
    output = tmp_path / "out"
    whole = written(output)[2].splitlines()[-1]
    content = output.read_text()
    with monkeypatch.context() as patch:
        patch.setattr(bulk, "load_artefact", lambda *args, **kwargs: pytest.fail("the models were loaded"))
        code, out, err = written(output)
    assert (code, out, err.splitlines()) == (0, "", [f"{output} is done already", whole])
    output.write_text(content[:-5])
    assert written(output)[0] == 0 and output.read_text() == content
    assert "is gone or damaged; it is made again" in caplog.text


def test_a_run_of_something_else_does_not_go_on(written, texts, tmp_path):
    output = tmp_path / "out"
    assert written(output, until=5)[0] == 130
    advice = f"give another --output, or remove {output}.run"
    for flags, message in (
        (["--max-new-tokens", "7"], "with max_new_tokens 8, not 7"),
        (["--format", "json"], "with format 'text', not 'json'"),
        (["--rule", "entropy", "--teacher-budget", "0.2"], "with teacher_budget 0.5, not 0.2"),
    ):
        code, _, err = written(output, *flags)
        assert code == 2 and message in err and err.endswith(f"{advice}\n")
    before = texts.read_text()
    texts.write_text(before.replace("d\n", "a\n"))
    code, _, err = written(output)
    assert code == 2 and "with input_digest" in err
    texts.write_text(before)
    assert written(output, "--threads", "1", "--on-error", "skip")[0] == 0
    assert len(output.read_text().splitlines()) == NUMBER
    # What is finished is written over, as any file of results.
    assert written(output, "--max-new-tokens", "2")[0] == 0


def test_the_batch_size_decides_in_online_mode_alone(written, tmp_path):
    assert written(tmp_path / "a", until=9)[0] == 130
    assert written(tmp_path / "a", "--batch-size", "2")[0] == 0
    assert written(tmp_path / "b", "--budget-mode", "online", until=9)[0] == 130
    code, _, err = written(tmp_path / "b", "--budget-mode", "online", "--batch-size", "2")
    assert code == 2 and "with batch_size 1, not 2" in err


def test_a_model_that_was_trained_again_is_another_one(written, folder, tmp_path):
    assert written(tmp_path / "out", until=9)[0] == 130
    thresholds = folder / "deferral" / "calibration.json"
    before = thresholds.read_bytes()
    thresholds.write_bytes(before + b"\n")
    try:
        code, _, err = written(tmp_path / "out")
    finally:
        thresholds.write_bytes(before)
    assert code == 2 and "with model_digest" in err


def test_a_text_that_stops_the_run_can_be_skipped_by_the_next(written, texts, tmp_path):
    with texts.open("a") as file:
        file.write("a " * 80 + "\na\n")
    code, _, err = written(tmp_path / "out")
    assert code == 2 and "input 24 has 81 tokens" in err
    code, _, err = written(tmp_path / "out", "--on-error", "skip")
    assert code == 0 and "of 25 texts are written already" in err and "skipped: input 24" in err
    assert len((tmp_path / "out").read_text().splitlines()) == 25


def test_a_start_that_failed_leaves_nothing(written, texts, tmp_path):
    texts.write_text("a " * 80)
    assert written(tmp_path / "out")[0] == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.txt"]


def test_a_page_and_what_is_no_file_are_written_at_once(written, tmp_path):
    (tmp_path / "pipe").symlink_to("/dev/null")
    assert written(tmp_path / "out.html", "--format", "html")[0] == written(tmp_path / "pipe")[0] == 0
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in.txt", "out.html", "pipe"]


def test_what_a_teacher_cost_is_kept_with_the_rows(tmp_path, texts, written):
    from tests.decoding.tiny import save_artefact

    model = save_artefact(tmp_path / "model", "llama")
    pair = Pair.load(model, model / "teacher")
    with fake_vllm(pair.teacher, pair.tokenizer) as server:
        flags = [
            "--model",
            str(model),
            "--teacher",
            server.url,
            "--teacher-model",
            NAME,
            "--max-teacher-requests",
            "40",
        ]
        code, _, err = written(tmp_path / "out", *flags, until=5)
        assert code == 130, err
        asked = len(server.asked)
        ledger = tmp_path / "out.run" / "ledger"
        assert ledger.is_file() and asked > 5
        code, _, err = written(tmp_path / "out", *flags)
        assert code == 0, err
    assert asked < len(server.asked) <= 40
    assert not ledger.exists()


@pytest.mark.slow
def test_a_killed_process_loses_what_is_in_flight(folder, texts, tmp_path):
    texts.write_text("".join(f"{text}\n" for text in itertools.islice(itertools.cycle(TEXTS), 20_000)))
    command = [sys.executable, "-m", "wheels", "generate", "--model", str(folder), "--rule", "random"]
    command += ["--max-new-tokens", "8", "--teacher-budget", "0.5", "--input", str(texts)]
    subprocess.run([*command, "--output", str(tmp_path / "whole")], check=True, capture_output=True)
    rows, kept, draw = tmp_path / "cut.run" / "rows", [0], random.Random(0)
    for _ in range(2):
        running = subprocess.Popen([*command, "--output", str(tmp_path / "cut")], stderr=subprocess.DEVNULL)
        while Lines(rows).count <= kept[-1]:
            time.sleep(0.1)
        time.sleep(draw.random() / 2)
        os.kill(running.pid, signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL, "it was over before"
        kept.append(Lines(rows).count)
    subprocess.run([*command, "--output", str(tmp_path / "cut")], check=True, capture_output=True)
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()


PEAK = """
import resource, sys
from wheels.cli.main import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


def test_memory_does_not_grow_with_the_rows(folder, tmp_path):
    """Within 5%: eight times the rows, past the blocks that are read ahead."""
    peaks, flags = [], ["--rule", "random", "--teacher-budget", "0", "--max-new-tokens", "2", "--threads", "1"]
    for count in (2_000, 16_000):
        rows = tmp_path / f"{count}.txt"
        rows.write_text("".join(f"{text}\n" for text in itertools.islice(itertools.cycle(TEXTS), count)))
        files = ["--model", str(folder), "--input", str(rows), "--output", str(tmp_path / f"{count}.out")]
        command = [sys.executable, "-c", PEAK, "generate", *files, *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
        peaks.append(int(done.stdout.split()[-1]))
        assert len((tmp_path / f"{count}.out").read_text().splitlines()) == count
    assert peaks[1] < 1.05 * peaks[0], peaks


class Timed(Lines):
    """Notes the seconds of processor time at the end of each part of its rows."""

    seconds: list[float]

    def append(self, line):
        super().append(line)
        if self.count % PART == 0:
            self.seconds.append(time.process_time())


class Quadratic(Timed):
    """Counts all of its characters anew with each row."""

    def append(self, line):
        self.all = [*getattr(self, "all", []), line]
        assert sum(map(len, self.all)) > 0
        super().append(line)


PART, PARTS = 256, 32
GROWTH = 1.25
"""The median part of the second half may take so many times the median part of the first; the writer that counts its
rows anew takes more."""


@pytest.mark.parametrize("writer", [Timed, Quadratic])
def test_the_time_of_a_row_does_not_grow_with_the_rows(call, tmp_path, monkeypatch, writer):
    writer.seconds = []
    monkeypatch.setattr(bulk, "Lines", writer)
    rows = tmp_path / "in.txt"
    rows.write_text("".join(f"{text}\n" for text in itertools.islice(itertools.cycle(TEXTS), PART * PARTS)))
    flags = ["--rule", "random", "--teacher-budget", "0", "--max-new-tokens", "2"]
    call("--input", str(rows), "--output", str(tmp_path / "out.txt"), *flags)
    taken = [after - before for before, after in itertools.pairwise(writer.seconds)]
    first, second = taken[: len(taken) // 2], taken[len(taken) // 2 :]
    growth = statistics.median(second) / statistics.median(first)
    assert len(taken) == PARTS - 1
    assert (growth > GROWTH) == (writer is Quadratic), growth
