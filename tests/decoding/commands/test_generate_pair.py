"""`wheels generate` with a student and a teacher that no rule was trained for."""

import re

import pytest

from tests.decoding.tiny import make_pair, write
from wheels.cli.main import main
from wheels.decoding.methods.method import deferral, speculative
from wheels.decoding.methods.rules import RULES

TEXTS = ["a b c", "d", "e f g h"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("untrained"), make_pair("t5")
    made.save_student(folder / "q")
    made.save_teacher(folder / "p")
    return folder, made


@pytest.fixture
def call(pair, capsys, monkeypatch):
    monkeypatch.chdir(pair[0])

    def run(*flags: str) -> tuple[int, str, str]:
        code = main(["generate", "--max-new-tokens", "8", *flags])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.mark.parametrize(
    ("flags", "method", "budget"),
    [
        (["--method", "speculative"], speculative(5), None),
        (["--rule", "random", "--teacher-budget", "0.5"], deferral(RULES["random"].at(0.5)), 0.5),
        (["--rule", "every-k", "--teacher-budget", "0.5"], deferral(RULES["every-k"].at(0.5)), 0.5),
    ],
)
def test_two_models_write_without_a_trained_folder(call, pair, tmp_path, flags, method, budget):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    code, out, _ = call("--student", "q", "--teacher", "p", *flags, "--input", str(texts))
    wanted = write(pair[1], TEXTS, method, budget=budget, max_new_tokens=8)
    assert (code, out.splitlines()) == (0, [trace.text for trace in wanted])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "m", "--student", "q", "--teacher", "p"], "give --model or --student, not both: got --model m"),
        (["--student", "q", "--method", "speculative"], "student q needs its teacher; give it by --teacher"),
        (["--student", "q", "--teacher", "p"], "rule 'learned' needs heads or thresholds, .*--rule random or every-k"),
        (["--student", "q", "--teacher", "p", "--method", "verified", "--rule", "margin"], "rule 'margin' needs heads"),
        (["--student", "no", "--teacher", "p", "--method", "bild"], "no student folder 'no'"),
    ],
)
def test_what_such_a_pair_cannot_do_is_one_line(call, flags, message):
    code, out, err = call(*flags, "a b")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.match(f"error: .*{message}", err), err
