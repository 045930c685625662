"""`wheels generate` from its command line: what it reads, what it writes, and what it refuses."""

import gzip
import io
import json
import os
import re
import sys

import pytest

from tests.decoding.commands.conftest import TEXTS, expected
from tests.decoding.tiny import with_ends, write
from wheels.decoding.commands import generate
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.decoding.methods.calibrated import rule_of
from wheels.decoding.methods.method import bild, cascade, priced, prompt_lookup, speculative, take_back, verified
from wheels.decoding.methods.rules import RULES
from wheels.decoding.models import self_check
from wheels.decoding.params import DecodeParams
from wheels.decoding.sampling import Sampling
from wheels.decoding.streaming import decode
from wheels.errors import WheelsError
from wheels.files import check_writable
from wheels.models.artefact import Artefact

WEIGHTS = r"; weights: student float32, teacher int8\n"
SUMMARY = r"teacher use \d\.\d\d \(asked 0\.5, average\): \d+ of \d+ tokens, \d+ pass(es)?, \d+ positions?\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_text_is_written_and_its_use_stands_on_standard_error(call, pair):
    code, out, err = call("--teacher-budget", "0.5", "a b c")
    (trace,) = expected(pair, ["a b c"])
    assert (code, out) == (0, trace.text + "\n")
    assert re.fullmatch(SUMMARY, err) and f"{trace.teacher_tokens} of {trace.tokens} tokens" in err


def test_quiet_leaves_the_outputs_alone(call, pair, tmp_path):
    (trace,) = expected(pair, ["a b c"])
    assert call("--teacher-budget", "0.5", "--quiet", "a b c") == (0, trace.text + "\n", "")
    assert call("--teacher-budget", "0.5", "--quiet", "--output", str(tmp_path / "o"), "a b c") == (0, "", "")


@pytest.mark.parametrize("way", ["file", "dash", "flag dash", "pipe", "jsonl", "jsonl.gz"])
def test_texts_come_from_a_file_or_a_pipe(call, pair, tmp_path, way):
    lines = ("\r\n".join(TEXTS) + "\n\n \n").encode()
    rows = "".join(json.dumps({"de": {"text": text}, "target": None}) + "\n\n" for text in TEXTS).encode()
    content = {"jsonl": rows, "jsonl.gz": gzip.compress(rows)}.get(way, b"\xef\xbb\xbf" + lines)
    path = tmp_path / f"texts.{way if 'jsonl' in way else 'txt'}"
    path.write_bytes(content)
    flags = {"file": ["--input", str(path)], "dash": ["-"], "flag dash": ["--input", "-"], "pipe": []}.get(
        way, ["--input", str(path), "--source", "de.text"]
    )
    piped = None if "--input" in flags and "-" not in flags else content
    code, out, err = call("--teacher-budget", "0.5", *flags, stdin=piped)
    assert (code, out.split("\n")) == (0, [*(trace.text for trace in expected(pair)), ""])
    assert re.fullmatch(SUMMARY, err)


def test_json_is_one_object_a_line_and_nothing_else(call, pair):
    code, out, err = call("--teacher-budget", "0.5", "--format", "json", stdin="\n".join(TEXTS).encode())
    traces = expected(pair)
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and err == ""
    assert [row.pop("seconds") >= 0 for row in found] == [True] * len(TEXTS)
    assert found == [{key: value for key, value in t.to_json().items() if key != "seconds"} for t in traces]
    assert {
        "text",
        "tokens",
        "teacher_use",
        "teacher_passes",
        "teacher_positions",
        "teacher_tokens",
        "budget",
        "mode",
    } <= set(found[0])


def test_html_is_written_whole_to_a_file(call, tmp_path):
    path = tmp_path / "new" / "page.html"
    code, out, err = call("--teacher-budget", "0.5", "--format", "html", "--output", str(path), "a <b> c")
    page = path.read_text(encoding="utf-8")
    assert (code, out) == (0, "")
    assert re.fullmatch(re.escape(f"written to {path}\n") + SUMMARY, err)
    assert page.startswith("<!doctype html>") and "a &lt;b&gt; c" in page and "/model</dd>" in page
    assert [entry.name for entry in path.parent.iterdir()] == ["page.html"]


def test_strict_mode_sampling_and_seed_reach_the_engine(call, pair):
    flags = ["--teacher-budget", "0.5", "--budget-mode", "strict", "--temperature", "1.5", "--seed", "3"]
    _, out, _ = call(*flags, "--format", "json", "--batch-size", "1", stdin="\n".join(TEXTS).encode())
    traces = expected(pair, mode="strict", sampling=Sampling(1.5), seed=3)
    assert [json.loads(line)["text"] for line in out.splitlines()] == [trace.text for trace in traces]
    assert json.loads(out.splitlines()[0])["mode"] == "strict"


METHODS = {
    "speculative": ([], speculative(5)),
    "speculative, drafts of 2": (["--draft-length", "2"], speculative(2)),
    "speculative, lenient": (["--tolerance", "0.9"], speculative(5, lenience=0.9)),
    "speculative, adaptive": (["--adaptive-draft"], speculative(5, adaptive=True)),
    "lookup": ([], prompt_lookup(5)),
    "bild": (["--fallback", "0.3", "--tolerance", "0.5"], bild(0.3, 0.5, 10)),
    "cascade": (["--cascade", "token-v3", "--tolerance", "0.7"], cascade("token-v3", 0.7)),
    "verified": (
        ["--teacher-budget", "0.5", "--tolerance", "0.1"],
        verified(RULES["random"].at(0.5), tolerance=0.1),
    ),
    "verified, to the end": (
        ["--teacher-budget", "0.5", "--verify-end"],
        verified(RULES["random"].at(0.5), tolerance=2.0, complete=True),
    ),
    "take-back": ([], take_back(16, 2.0)),
    "take-back, strictly": (["--draft-length", "3", "--tolerance", "0.1"], take_back(3, 0.1)),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_command_line_reaches_the_engine(call, pair, name):
    flags, method = METHODS[name]
    code, out, err = call("--method", name.split(",")[0], "--format", "json", *flags, "--input", "-",
                          stdin="\n".join(TEXTS).encode())  # fmt: skip
    budget = 0.5 if name.startswith("verified") else None
    traces = write(pair, TEXTS, method, budget=budget, max_new_tokens=8)
    shown = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    for row, trace in zip(shown, traces, strict=True):
        assert {**row, "seconds": 0} == {**trace.to_json(), "seconds": 0}


@pytest.mark.parametrize(
    ("flags", "scale", "complete", "stands"),
    [
        ([], 1.0, False, False),
        (["--tolerance", "10"], 10.0, False, True),
        (["--tolerance", "10", "--verify-end"], 10.0, True, True),
    ],
)
def test_priced_follows_the_price_of_the_rule(call, folder, flags, scale, complete, stands):
    method = priced(rule_of(Artefact.load(folder), "learned"), 0.2, scale=scale, draft=3, complete=complete)
    assert method.rule.threshold == 9.0 and method.verifier.threshold == 9.0 * scale
    told = ["--method", "priced", "--rule", "learned", "--draft-length", "3", *flags]
    code, out, _ = call(*told, "--format", "json", "--input", "-", stdin="\n".join(TEXTS).encode())
    traces = decode(Artefact.load(folder).pair, TEXTS, method, DecodeParams(max_new_tokens=8))
    assert code == 0 and (sum(trace.accepted for trace in traces) > 0) is stands, "regrets lie between 9 and 20 nats"
    for line, trace in zip(out.splitlines(), traces, strict=True):
        assert {**json.loads(line), "seconds": 0} == {**trace.to_json(), "seconds": 0}


def test_drafts_are_summed_up(call):
    code, _, err = call("--method", "speculative", "a b c")
    assert code == 0
    assert re.fullmatch(r"teacher use \d\.\d\d \(speculative\): .* positions; \d+ of \d+ draft tokens? kept\n", err)


@pytest.mark.parametrize("bad", ["", "a " * 80], ids=["blank", "too long"])
def test_an_input_that_cannot_be_read_can_be_skipped(call, pair, bad):
    stdin = "\n".join(["a b c", bad, "d"]).encode()
    code, out, err = call("--teacher-budget", "0.5", "--input", "-", stdin=stdin)
    assert (code, out) == (2, "") and re.search("is empty|has 81 tokens", err)
    code, out, err = call("--teacher-budget", "0.5", "--on-error", "skip", "--input", "-", stdin=stdin)
    first, _, last = write(pair, ["a b c", "e", "d"], RULES["random"].at(0.5), budget=0.5, max_new_tokens=8)
    assert (code, out.splitlines()) == (0, [first.text, "", last.text])
    told = "standard input: 1 of 3 rows left out: 1 as standard input:2: 'source' is empty; drop the row"
    assert err.startswith(told) == (not bad)
    assert re.search(r"skipped: input 2 (is empty; give it some text|has 81 tokens, .* at most 64; shorten)", err)


def test_the_seed_chooses_the_trained_head(call):
    uses = []
    for seed in ("0", "1"):
        _, out, _ = call("--rule", "learned", "--teacher-budget", "0.2", "--format", "json", "--seed", seed, "a b c")
        uses.append(json.loads(out)["teacher_use"])
    assert uses == [0.0, 1.0], "the first threshold lies above everything that its head says, the second below"


def test_a_terminal_gets_colour_and_the_use_as_its_last_line(call, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    _, _, err = call("--teacher-budget", "1", "a b c")
    assert terminal.getvalue().startswith("\x1b[1;33m") and terminal.getvalue().endswith("\x1b[0m\n")
    assert err.startswith("teacher use 1.00 (asked 1, average)")


@pytest.mark.parametrize(
    ("color", "terminal", "no_color", "output", "wanted"),
    [
        ("auto", True, None, None, True),
        ("auto", True, "", None, True),
        ("auto", True, "1", None, False),
        ("auto", False, None, None, False),
        ("auto", True, None, "file", False),
        ("always", False, "1", "file", True),
        ("never", True, None, None, False),
    ],
)
def test_when_there_is_colour(monkeypatch, color, terminal, no_color, output, wanted):
    monkeypatch.setattr(sys, "stdout", Terminal() if terminal else io.StringIO())
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    assert generate.wants_color(GenerateConfig(color=color, output=output)) is wanted


@pytest.mark.parametrize(("size", "terminal", "shown"), [("1", True, True), ("3", True, False), ("1", False, False)])
def test_a_bar_is_for_several_batches_on_a_terminal(call, monkeypatch, size, terminal, shown):
    err = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    assert call("--batch-size", size, stdin="\n".join(TEXTS).encode())[0] == 0
    assert ("text/s" in err.getvalue()) is shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--teacher-budget", "20"], r"teacher_budget must be in \[0, 1\], got 20; did you mean 0.2\?"),
        (["--teacher-budget", "-0.1"], r"teacher_budget must be in \[0, 1\], got -0.1"),
        (["--teacher-budget", "nan"], r"teacher_budget must be in \[0, 1\], got nan"),
        (["--teacher-budget", "a"], r"teacher_budget must be a number in \[0, 1\], got 'a'"),
        (["--rule", "entropie"], "rule must be one of .*, got 'entropie'; did you mean 'entropy'"),
        (["--rule", "margin"], r"rule 'margin' \(seed 0\) is not calibrated.*; calibrate .* by the command calibrate"),
        (["--method", "priced"], r"method 'priced' needs a rule .* in nats \(learned, paired, .*\), got 'random'"),
        (["--rule", "learned", "--seed", "2"], r"rule 'learned' has no trained head of seed 2 \(trained: .* 0 to 1\)"),
        (["--model", "missing"], "no model folder 'missing'; give what `wheels train --output` wrote"),
        (["--device", "cuda:99"], "device 'cuda:99' is not on this machine"),
        (["--output", "."], "cannot write .: it is a folder; give the name of a file"),
        (["--output", "text.txt/page.html"], "cannot write text.txt/page.html: .*text.txt is not a folder; choose"),
        (["b " * 64], "input 1 has 65 tokens, and the models read at most 64; shorten or split it"),
        ([" \t"], "the text is empty; give some text, or a file by --input"),
        (["\udcff"], "text is not UTF-8 at character 1; give it as UTF-8"),
        (["--input", "none.txt"], "none.txt: no such file"),
        (["--input", "empty.txt"], "empty.txt: nothing in it; it must hold rows, or one text a line"),
        (["--input", "blank.txt"], "blank.txt: nothing in it; it must hold rows, or one text a line"),
        (["--input", "gap.txt"], "gap.txt:2: 'source' is empty; drop the row or fill it in"),
        (["--input", "latin.txt"], "latin.txt:2: not UTF-8: byte 0xfc"),
        (["--input", "long.txt"], "input 2 has 65 tokens, and the models read at most 64"),
        (["--input", "rows.jsonl", "--source", "sorce"], "rows.jsonl:1: no column 'sorce'; .*; did you mean 'source'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_exit_code_2(call, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    files = {
        "text": b"a",
        "empty": b"",
        "blank": b"\n \n",
        "gap": b"a\n\nb",
        "latin": b"a\n\xfc",
        "long": b"a\n" + b"b " * 64,
    }
    for name, content in files.items():
        (tmp_path / f"{name}.txt").write_bytes(content)
    (tmp_path / "rows.jsonl").write_text('{"source": "a"}\n')
    text = [] if "--input" in flags or not flags[0].startswith("--") else ["a b"]
    code, out, err = call(*flags, *text)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert re.match(f"error: {message}", err), err


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (b"", "error: standard input: nothing in it; it must hold rows, or one text a line\n"),
        (b"a\n\nb\n", "error: standard input:2: 'source' is empty; drop the row or fill it in\n"),
        (
            b"a\xff",
            "error: standard input:1: not UTF-8: byte 0xff at offset 1 of the file; save it as UTF-8\n",
        ),
    ],
)
def test_what_is_wrong_with_a_pipe(call, stdin, message):
    assert call(stdin=stdin) == (2, "", message)


def test_a_terminal_with_nothing_to_read_is_told_what_to_do(call, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Terminal())
    said = 'error: no text to write from; give it in quotes ("..."), by --input FILE, or through a pipe\n'
    assert call() == (2, "", said)


def test_an_unwritable_place_is_found_before_the_work(call, monkeypatch, tmp_path):
    monkeypatch.setattr(generate, "in_order", lambda *args, **kwargs: pytest.fail("the work began"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    code, out, err = call("--output", str(tmp_path / "x"), "a")
    assert (code, out) == (2, "") and "may not be written to; choose another place" in err
    with pytest.raises(WheelsError, match=r"cannot write .*x: .* may not be written to"):
        check_writable(tmp_path / "deep" / "x")


def test_an_interrupt_leaves_the_old_file(call, monkeypatch, tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "in_order", interrupted)
    code, out, err = call("--output", str(path), "a")
    assert (code, out) == (130, "") and "interrupted" in err
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_outputs_of_several_lines_are_one_line_each_where_there_are_several(pair, monkeypatch):
    trace = expected(with_ends(pair, 1), ["a"])[0]
    broken = type(trace)(**{**vars(trace), "text": "x\ny"})
    config = GenerateConfig(color="never")
    assert generate.render(config, broken, one_line=False) == "x\ny\n"
    assert generate.render(config, broken, one_line=True) == "x y\n"


def test_rounded_weights_are_said_and_used(call, monkeypatch):
    made = []
    runner = self_check.Runner
    monkeypatch.setattr(
        self_check,
        "Runner",
        lambda *args, weights, **kwargs: made.append(weights) or runner(*args, weights=weights, **kwargs),
    )
    code, _, err = call("a b c", "--teacher-budget", "0.5", "--teacher-weights", "int8")
    assert code == 0 and re.fullmatch(SUMMARY.replace("\\n", "") + WEIGHTS, err)
    assert made == ["float32", "int8"]


def test_rounded_weights_need_float32(call):
    code, _, err = call("a b c", "--teacher-budget", "0.5", "--student-weights", "int8", "--dtype", "bfloat16")
    assert code == 2 and "weights 'int8' are for" in err and "use weights float32" in err
