"""The commands with a student and a teacher of two tokenizers: text goes between them, and thresholds count it."""

import json

import pytest

from tests.decoding.across.two import SOURCES, text_pair
from wheels.cli.main import main
from wheels.models.artefact import save_deferral
from wheels.models.loading import save_model
from wheels.policy.calibration import Calibration
from wheels.policy.features import feature_width
from wheels.policy.head import DeferralHead, HeadConfig


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A trained model's folder whose teacher has another tokenizer, and texts."""
    folder, made = tmp_path_factory.mktemp("across"), text_pair("t5", "t5")
    save_model(made.student.float(), made.tokenizer, folder / "model")
    save_model(made.writer.float(), made.teacher_tokenizer, folder / "teacher")
    head = DeferralHead(HeadConfig.of(feature_width(16), made.vocab_size, width=8))
    save_deferral(folder / "model", {"learned": [head]}, teacher="../teacher", prompt="{source}", trained={})
    (folder / "texts.txt").write_text("\n".join(SOURCES))
    rows = [json.dumps({"text": source}) for source in SOURCES * 3]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture
def call(pair, capsys, monkeypatch):
    monkeypatch.chdir(pair)

    def run(*flags: str) -> tuple[int, str, str]:
        code = main([*flags, "--max-new-tokens", "12"])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


MODELS = ("generate", "--student", "model", "--teacher", "teacher", "--input", "texts.txt", "--rule", "random")


def test_two_models_write_by_text(call):
    code, out, err = call(*MODELS, "--budget-mode", "online", "--teacher-budget", "0.5", "--span", "tokens:2")
    assert (code, len(out.splitlines())) == (0, len(SOURCES))
    assert "have different tokenizers" in err and "calls go by text" in err
    assert " characters, for which it read " in err


def test_drafts_are_verified_by_text(call):
    texts = [
        call("generate", "--student", "model", "--teacher", "teacher", "--input", "texts.txt", *more)[1].splitlines()
        for more in (
            ("--method", "speculative"),
            ("--rule", "random", "--budget-mode", "online", "--teacher-budget", "1"),
        )
    ]
    assert texts[0] == texts[1] != [""] * len(SOURCES)


@pytest.mark.slow
def test_a_threshold_of_other_calls_is_refused_and_one_of_these_is_kept(call, pair):
    wanted = ("generate", "--model", "model", "--input", "texts.txt", "--rule", "margin", "--teacher-budget", "0.5")
    data = ("--data", "rows.jsonl", "--source", "text", "--budgets", "0.3,0.5", "--rules", "margin,learned")
    code, _, err = call("calibrate", "--model", "model", "--span", "tokens:2", *data)
    assert code == 0, err
    kept = Calibration.load(pair / "model" / "deferral" / "calibration.json")
    assert {point.rule for point in kept.points} == {"margin", "learned"} and kept.config["span"] == "tokens:2"
    assert call(*wanted, "--span", "tokens:2")[0] == 0
    code, _, err = call(*wanted)
    assert code == 2 and "measured with another teacher or span, and a call buys what its text takes" in err


def test_a_span_is_for_two_tokenizers(call):
    flags = ("--student", "model", "--teacher", "model", "--rule", "random")
    code, _, err = call("generate", *flags, "--input", "texts.txt", "--span", "line")
    assert code == 2 and "span 'line' is for a teacher behind an address or with a tokenizer of its own" in err


def test_a_command_that_needs_one_tokenizer_says_which_take_two(call):
    data = ("--data", "rows.jsonl", "--source", "text", "--target", "text")
    code, _, err = call("bench", "passes", "--model", "model", *data, "--output", "made")
    assert (
        code == 2 and "this needs one tokenizer (pretrain, train, calibrate, generate and bench curve take two)" in err
    )
