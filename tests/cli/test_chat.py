"""Conversations through the commands: pretrain, train, calibrate, generate and the curve read one chat template."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.models.chat_tokenizers import chat_tokenizer
from wheels.cli.main import main
from wheels.data.conversations import Conversation
from wheels.data.prompts import Prompt
from wheels.decoding.methods.method import student_only
from wheels.decoding.params import DecodeParams
from wheels.decoding.streaming import decode
from wheels.distillation.run_folder import noted_prompt, run_facts
from wheels.models.artefact import Artefact
from wheels.models.build import ModelSize, build_model
from wheels.models.loading import save_model
from wheels.models.pair import Pair

NUMBERS = ("one", "two", "three", "five", "six")
PROMPT = Prompt(chat=True, system="You count.", arguments={"enable_thinking": False})
TOLD = ["--system-prompt", "You count.", "--template-args", "enable_thinking=false"]


def turns(number: int) -> list[dict[str, str]]:
    first, second = (NUMBERS[(number + step) % 5] for step in range(2))
    return [
        {"role": "user", "content": f"What is {first}?"},
        {"role": "assistant", "content": f"It is {first}!"},
        {"role": "user", "content": f"And {second}?"},
        {"role": "assistant", "content": f"It is {second}!"},
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two models with one tokenizer, and rows of messages."""
    root, tokenizer = tmp_path_factory.mktemp("chat"), chat_tokenizer("thinks")
    for name, width in (("student", 16), ("teacher", 32)):
        size, end = ModelSize(width=width, layers=1, heads=2, ff=32), tokenizer.eos_token_id
        model = build_model(size, family="llama", vocab_size=len(tokenizer), seed=width, eos_id=end)
        for weight in model.model.layers.parameters():
            weight.data *= 12.0 if weight.ndim > 1 else 1.0  # what is written depends on all that was read
        save_model(model, tokenizer, root / name)
    for split, count in (("train", 12), ("validation", 6), ("test", 4)):
        lines = (json.dumps({"messages": turns(number)}) + "\n" for number in range(count))
        (root / f"{split}.jsonl").write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def pretrained(folder: Path) -> Path:
    place = folder / "pretrained"
    flags = ["--data", str(folder), "--student", str(folder / "student"), "--teacher", str(folder / "teacher")]
    flags += ["--objective", "kl", "--max-steps", "2", "--batch-size", "4", "--eval-limit", "2"]
    assert main(["pretrain", "--output", str(place), *flags, "--max-target-length", "12", *TOLD]) == 0
    return place


@pytest.fixture(scope="module")
def trained(folder: Path, pretrained: Path) -> Path:
    place = folder / "model"
    flags = ["--student", str(pretrained), "--teacher", str(folder / "teacher"), "--data", str(folder)]
    flags += [
        "--width",
        "8",
        "--warm-epochs",
        "1",
        "--rounds",
        "0",
        "--texts",
        "8",
        "--budgets",
        "0.5",
        "--no-calibrate",
    ]
    assert main(["train", "--output", str(place), *flags, "--batch-size", "4", "--max-new-tokens", "6"]) == 0
    return place


@pytest.mark.slow
def test_what_a_model_was_trained_with_goes_with_it(pretrained: Path, trained: Path):
    assert noted_prompt(pretrained) == PROMPT and run_facts(pretrained)["rows"] == 12
    assert Artefact.load(trained).pair.prompt == PROMPT, "train was told nothing of it"


@pytest.fixture
def asked(trained: Path, tmp_path: Path, capsys):
    """Return a function that writes from rows, and returns what was written: tokens, or an error."""

    def run(
        *flags: str, rows: list[dict], model: tuple[str, ...] = ("--model", str(trained))
    ) -> list[tuple[int, ...]] | str:
        path = tmp_path / "asked.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        code = main(["generate", *model, "--input", str(path), "--max-new-tokens", "6", "--format", "json", *flags])
        shown = capsys.readouterr()
        traces = [json.loads(line) for line in shown.out.splitlines()]
        return [tuple(token["id"] for token in trace["tokens"]) for trace in traces] if code == 0 else shown.err

    return run


def written(pair: Pair, sources: list[str], prompt: Prompt) -> list[tuple[int, ...]]:
    pair.prompt = prompt
    return [trace.token_ids for trace in decode(pair, sources, student_only(), DecodeParams(max_new_tokens=6))]


ALONE = ("--teacher-budget", "0", "--rule", "random")


@pytest.mark.slow
def test_generate_reads_messages_and_texts_as_the_model_was_trained(asked, trained: Path):
    rows = [{"messages": turns(2)[:3]}, {"messages": turns(3)}, {"source": "What is {one}?"}]
    sources = [Conversation(turns(2)[:3]), Conversation(turns(3)[:3]), "What is {one}?"]
    read = written(Artefact.load(trained).pair, sources, PROMPT)
    assert asked(*ALONE, rows=rows) == read
    assert read != written(Artefact.load(trained).pair, [str(source) for source in sources], PROMPT)


def test_generate_can_be_told_otherwise(asked, trained: Path):
    rows = [{"source": "What is one?"}, {"source": "two and three"}]
    sources = [row["source"] for row in rows]
    pair = Artefact.load(trained).pair
    read = [written(pair, sources, prompt) for prompt in (replace(PROMPT, system="Another."), Prompt(), PROMPT)]
    assert read[0] != read[2] != read[1]
    assert asked(*ALONE, "--system-prompt", "Another.", rows=rows) == read[0]
    assert asked(*ALONE, "--chat-template", "off", rows=rows) == read[1]
    assert "--chat-template on" in asked(*ALONE, "--chat-template", "off", rows=[{"messages": turns(1)}])


def test_a_pair_that_was_never_trained_reads_messages_by_itself(asked, folder: Path, trained: Path):
    pair = ("--student", str(folder / "student"), "--teacher", str(folder / "teacher"))
    own = Artefact.untrained(str(folder / "student"), str(folder / "teacher")).pair
    read = written(own, [Conversation(turns(1)[:3])], Prompt(chat=True))
    assert asked(*ALONE, rows=[{"messages": turns(1)}], model=pair) == read
    read = [written(own, ["What is one?"], prompt) for prompt in (Prompt(), Prompt(chat=True))]
    assert read[0] != read[1]
    assert asked(*ALONE, rows=[{"source": "What is one?"}], model=pair) == read[0]
    assert asked(*ALONE, "--prompt", "chat", rows=[{"source": "What is one?"}], model=pair) == read[1]


@pytest.mark.slow
def test_calibration_and_the_curve_read_messages(folder: Path, trained: Path, tmp_path: Path):
    common = ["--model", str(trained), "--batch-size", "4", "--max-new-tokens", "6"]
    assert main(["calibrate", *common, "--data", str(folder), "--budgets", "0.3", "--rules", "entropy"]) == 0
    flags = ["--data", str(folder), "--budgets", "0,0.5,1", "--rules", "random", "--seeds", "1", "--resamples", "100"]
    assert main(["bench", "curve", *common, *flags, "--output", str(tmp_path / "curve")]) == 0
    assert (tmp_path / "curve" / "curve.json").is_file()
