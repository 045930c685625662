"""`wheels generate` with a teacher behind an address, and the same in Python."""

import json
import re

import pytest

import wheels
from tests.decoding.remote.fake_chat import FakeChat
from tests.decoding.remote.fake_vllm import NAME, fake_vllm
from tests.decoding.tiny import save_artefact
from wheels.cli.main import main
from wheels.models.pair import Pair

TEXTS = ["a b c", "k j i h", "e a e a e a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_artefact(tmp_path_factory.mktemp("remote") / "model", "llama")


@pytest.fixture
def server(folder):
    pair = Pair.load(folder, folder / "teacher")
    with fake_vllm(pair.teacher, pair.tokenizer) as running:
        yield running


def run(capsys, *flags):
    code = main(["generate", "--rule", "random", "--teacher-budget", "0.5", "--max-new-tokens", "8", *flags])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def without_costs(lines):
    found = [json.loads(line) for line in lines.splitlines()]
    costs = ("seconds", "student_passes", "guessed", "bill", "runs_on")
    return [{key: value for key, value in line.items() if key not in costs} for line in found]


@pytest.mark.parametrize("model", [["--model", "{0}"], ["--student", "{0}"]])
def test_a_teacher_at_an_address_writes_what_its_folder_does(folder, server, capsys, tmp_path, model):
    own = [part.format(folder) for part in model]
    (tmp_path / "in.txt").write_text("\n".join(TEXTS))
    flags = [*own, "--input", str(tmp_path / "in.txt"), "--format", "json"]
    code, here, _ = run(capsys, *flags, "--teacher", str(folder / "teacher"))
    assert code == 0
    code, there, err = run(capsys, *flags, "--teacher", server.url, "--teacher-model", NAME)
    assert code == 0, err
    assert without_costs(there) == without_costs(here)
    assert server.asked and f"teacher {NAME} (vllm): token ids" in err


def test_a_chat_is_asked_in_the_words_that_are_given(folder, capsys):
    pair = Pair.load(folder, folder / "teacher")
    with fake_vllm(pair.teacher, pair.tokenizer, FakeChat) as server:
        flags = ["--model", str(folder), "--teacher", server.url, "--teacher-model", NAME, "--span", "tokens:2"]
        flags += ["--budget-mode", "online", "--format", "json", "--teacher-prompt", "k {source} c"]
        code, out, err = run(capsys, *flags, "a b")
        assert code == 0, err
        assert server.bodies[-1]["messages"][0]["content"] == "k a b c" and "so it is asked in words" in err
        found = json.loads(out)
        assert found["teacher_own_tokens"]["written"] == found["bill"]["completion"] > 0


def test_a_page_names_the_teacher(folder, server, capsys, tmp_path):
    page = tmp_path / "page.html"
    flags = ["--model", str(folder), "--teacher", server.url, "--teacher-model", NAME, "--output", str(page)]
    assert run(capsys, *flags, "--format", "html", "a b c")[0] == 0
    assert f"{NAME}</dd>" in page.read_text()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--teacher", "http://h/v1"], "a server has its models by name: give --teacher-model NAME"),
        (["--teacher-model", "x"], "teacher_model 'x' is a name at a server, but teacher is no http"),
        (
            ["--teacher", "http://h", "--teacher-model", "x", "--teacher-weights", "int8"],
            "teacher_weights 'int8' is for",
        ),
        (
            ["--teacher", "http://h", "--teacher-model", "x", "--teacher-quantization", "int8"],
            "teacher_quantization 'int8' is for a teacher in a folder, and this one is at an address",
        ),
        (
            ["--teacher", "http://h", "--teacher-model", "x", "--teacher-device", "cuda:1"],
            "teacher_device 'cuda:1' is for",
        ),
        (
            ["--teacher", "http://h", "--teacher-model", "x", "--teacher-key", "NOT_SET_X"],
            "--teacher-key must name an env",
        ),
        (["--span", "line"], "span 'line' is for a teacher behind an address"),
        (["--teacher-timeout", "3"], "teacher_timeout 3.0 is for a teacher behind an address; leave it out"),
        (["--teacher-attempts", "1"], "teacher_attempts 1 is for a teacher behind an address"),
        (["--teacher-prompt", "{source}"], "teacher_prompt '{source}' is for a teacher behind an address"),
        (
            ["--teacher", "http://h", "--teacher-model", "x", "--teacher-prompt", "{text}"],
            "teacher_prompt must contain {source} and no other braces",
        ),
        (["--on-teacher-error", "stop"], "on_teacher_error 'stop' is for a teacher behind an address"),
        (["--teacher-key", "HOME"], "teacher_key 'HOME' is for a teacher behind an address"),
        (["--budget-dollars", "1"], "budget_dollars 1.0 is for a teacher behind an address"),
        (["--ledger", "x"], "ledger 'x' is for a teacher behind an address"),
        (["--teacher", "folder", "--max-teacher-requests", "9"], "max_teacher_requests 9 is for a teacher behind"),
        (["--teacher", "folder", "--max-teacher-tokens", "0"], "max_teacher_tokens 0 is for a teacher behind"),
        (["--teacher", "http://h", "--teacher-model", "x", "--span", "tokens:0"], "span must be tokens:N"),
        (["--prices", "prompt=1,completion=2"], "prices ('prompt=1', 'completion=2') is for a teacher behind"),
        (
            ["--teacher", "http://h", "--teacher-model", "x", "--budget-dollars", "1"],
            "budget_dollars needs prices: give --prices",
        ),
        (["--no-write-on"], "write_on False is for a teacher behind an address"),
        (["--teacher", "http://h", "--teacher-model", "x", "--prices", "prompt=1"], "prices must have prompt and"),
        (["--teacher", "http://a:b@h", "--teacher-model", "x"], "an endpoint must be a plain address"),
        (["--teacher", "http://h", "--teacher-model", "x", "--on-teacher-error", "pause"], "one of continue, stop"),
    ],
)
def test_what_does_not_go_together_is_refused(folder, capsys, flags, words):
    code, out, err = run(capsys, "--model", str(folder), *flags, "a b c")
    assert (code, out) == (2, "") and words in err


def test_the_bill_is_shown_and_a_ledger_kept(folder, server, capsys, tmp_path):
    flags = ["--model", str(folder), "--teacher", server.url, "--teacher-model", NAME, "--format", "json"]
    flags += ["--prices", "prompt=400,cached=100,completion=1600", "--budget-dollars", "5"]
    flags += ["--max-teacher-requests", "50", "--max-teacher-tokens", "500"]
    code, _, err = run(capsys, *flags, "--ledger", str(tmp_path / "money"), "--output", str(tmp_path / "out"), "a b c")
    assert code == 0, err
    bill = json.loads((tmp_path / "out").read_text())["bill"]
    assert bill["requests"] >= 1 and bill["dollars"] > 0
    assert f"; ${bill['dollars']:.6f}, the teacher alone ${bill['teacher_dollars']:.6f}" in err
    assert run(capsys, *flags, "--ledger", str(tmp_path / "money"), "a b c")[0] == 0, "given up, and taken again"
    events = [json.loads(line)["event"] for line in (tmp_path / "money").read_text().splitlines()]
    assert events[0] == "reserve" and events.count("settle") == events.count("reserve") >= 4
    assert events.count("send") == events.count("reserve") + 2, "each of the two probes lists the models too"


def test_dollars_are_spread_where_no_share_is_given(folder, server, capsys, tmp_path):
    (tmp_path / "in.txt").write_text("\n".join(TEXTS * 4))
    flags = ["generate", "--rule", "random", "--max-new-tokens", "8", "--batch-size", "2", "--format", "json"]
    flags += ["--model", str(folder), "--teacher", server.url, "--teacher-model", NAME]
    flags += ["--prices", "prompt=400,completion=1600", "--budget-dollars", "0.1", "--input", str(tmp_path / "in.txt")]
    assert main([*flags, "--output", str(tmp_path / "out")]) == 0
    err = capsys.readouterr().err
    assert re.search(
        r"teacher: \$0\.(09[0-9]+|100000) of \$0\.100000 spent, [0-9]+ requests sent, [0-9]+ tokens written", err
    )
    traces = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert {trace["mode"] for trace in traces} == {"dollars"}
    assert sum(trace["teacher_tokens"] for trace in traces[6:]) > 0, "late texts get theirs too"
    assert main([*flags, "--budget-mode", "strict"]) == 2
    assert "budget_mode 'strict' keeps a teacher budget" in capsys.readouterr().err


def test_in_python(folder, server):
    here = wheels.Model.load(folder)
    teacher = wheels.RemoteTeacher(server.url, NAME, on_error="stop")
    there = wheels.Model.load(folder, teacher=teacher)
    settings = {"rule": "random", "teacher_budget": 0.5, "max_new_tokens": 8}
    found = there.generate(TEXTS, **settings)
    assert [trace.token_ids for trace in found] == [trace.token_ids for trace in here.generate(TEXTS, **settings)]
    assert re.match(r"RemotePair\(LlamaForCausalLM, 'big/teacher' at http://127", repr(there.pair))
    teacher.close()


def test_a_server_waits_for_no_other(capsys):
    assert main(["serve", "--teacher", "http://h/v1"]) == 2
    assert "is an address, and a server waits for nobody" in capsys.readouterr().err
