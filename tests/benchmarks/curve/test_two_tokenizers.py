"""A pair with two tokenizers on its whole way: distilled, written with, and drawn as a curve."""

import json

import pytest

from tests.decoding.across.two import SOURCES, text_pair
from wheels.cli.main import main
from wheels.models.loading import save_model

pytestmark = pytest.mark.slow


def test_a_pair_with_two_tokenizers_goes_all_the_way(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = text_pair("t5", "t5")
    save_model(made.student.float(), made.tokenizer, tmp_path / "student")
    save_model(made.writer.float(), made.teacher_tokenizer, tmp_path / "teacher")
    (tmp_path / "data").mkdir()
    for split, more in {"train": "", "validation": "", "test": " la du"}.items():
        rows = [json.dumps({"source": source + more, "target": source}) for source in SOURCES * 4]
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(rows))

    def call(*flags: str) -> str:
        code = main([*flags, "--teacher", "teacher"])
        shown = capsys.readouterr()
        assert code == 0, shown.err
        return shown.out

    learning = ("--objective", "kl", "--w", "0.5", "--max-steps", "4", "--batch-size", "4", "--learning-rate", "0.01")
    call("pretrain", "--student", "student", "--data", "data", *learning, "--output", "made")
    writing = ("--max-new-tokens", "10", "ba du la")
    texts = [
        call("generate", "--student", "made", *how, *writing)
        for how in (
            ("--method", "speculative"),
            ("--rule", "random", "--budget-mode", "online", "--teacher-budget", "1"),
        )
    ]
    assert texts[0] == texts[1]
    call(
        "bench", "curve", "--model", "made", "--data", "data", "--rules", "margin", "--budgets", "0.3", "--limit", "8",
        "--calibration-data", "data", "--calibration-limit", "8", "--max-new-tokens", "10", "--span", "tokens:2",
        "--output", "curve",
    )  # fmt: skip
    told = (tmp_path / "curve" / "curve.json").read_text()
    assert "margin" in told
