"""The pair that comes with the package: small, whole, and good enough to show what the package does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.models.everyday import EVERYDAY
from wheels.benchmarks.core.commands import embedded_pair
from wheels.benchmarks.core.recipe import Recipe
from wheels.benchmarks.demo.config import DemoConfig
from wheels.benchmarks.demo.retrain import RECIPE, SECTIONS, assemble, retrain_stages, round_pair, write_half
from wheels.cli.main import main
from wheels.data.tasks import Row, Task, load_task
from wheels.decoding.methods.calibrated import calibrated
from wheels.decoding.methods.method import deferral
from wheels.decoding.streaming import decode
from wheels.decoding.trace import teacher_use
from wheels.metrics import score
from wheels.models.artefact import Artefact, embedded_folder
from wheels.models.build import ModelSize
from wheels.models.pair import Pair

ROOT = Path(__file__).parents[2]
ROWS = 100
MARGIN = 3.0
"""chrF, by which a fifth of the teacher's tokens is better than none, and all of them better than a fifth."""
LEAST_GAP = 8.0
"""chrF, teacher above student: what the pair was made for."""


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("embedded-translation", limit=ROWS)


@pytest.fixture(scope="module")
def artefact() -> Artefact:
    return Artefact.load()


@pytest.fixture(scope="module")
def write(artefact, task):
    """Return what the pair writes for the first rows of the test split under a rule and a budget."""
    sources = [row.source for row in task.test]

    def decoded(rule: str, budget: float):
        return decode(artefact.pair, sources, deferral(calibrated(artefact, rule, budget), budget), batch_size=ROWS)

    return decoded


def chrf(traces, task: Task) -> float:
    return score("chrf", [trace.text for trace in traces], [row.target for row in task.test]).value


def test_the_demo_and_the_artefact_mean_the_same_folder():
    assert embedded_pair() == embedded_folder()


def test_it_is_under_20_mb_in_all():
    files = [path for path in embedded_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20_000_000
    names = {path.relative_to(embedded_folder()).as_posix() for path in files}
    assert {"model.safetensors", "teacher/model.safetensors", "deferral/model.safetensors", "README.md"} <= names


def test_its_weights_are_halves_and_load_as_singles(artefact):
    for name in ("model.safetensors", "teacher/model.safetensors", "deferral/model.safetensors"):
        assert {tensor.dtype for tensor in load_file(embedded_folder() / name).values()} == {torch.float16}, name
    for model in (artefact.pair.student, artefact.pair.teacher, artefact.head("learned")):
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_plain_transformers_loads_both_ends():
    from transformers import AutoModelForSeq2SeqLM

    for folder in (embedded_folder(), embedded_folder() / "teacher"):
        assert AutoModelForSeq2SeqLM.from_pretrained(folder).dtype == torch.float32


def test_it_knows_what_spans_gain(artefact):
    (head,) = artefact.spans
    assert head.spans_K.tolist() == [2, 4, 8]


def test_it_was_made_by_the_recipe_beside_it():
    resolved = json.loads((embedded_folder() / "resolved.json").read_text(encoding="utf-8"))
    assert resolved["recipe"] == Recipe.read(RECIPE, SECTIONS).sections
    assert resolved["test"]["teacher"]["chrf"] - resolved["test"]["student"]["chrf"] >= LEAST_GAP
    card = (embedded_folder() / "README.md").read_text(encoding="utf-8")
    for scores in resolved["test"].values():
        assert f"| {scores['bleu']:.1f} | {scores['chrf']:.1f} |" in card


def test_its_thresholds_cover_the_usual_budgets(artefact):
    assert artefact.calibration.data == "embedded-translation:validation"
    for rule in ("learned", "regret", "maxprob", "entropy", "margin", "foresight"):
        found = [artefact.calibration.threshold(rule, budget) for budget in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)]
        assert found == sorted(found, reverse=True), rule


@pytest.mark.slow
def test_the_teacher_is_far_above_the_student_and_calls_close_the_gap(write, task):
    alone, together, teacher = (chrf(write("learned", budget), task) for budget in (0.0, 0.2, 1.0))
    assert teacher - alone >= LEAST_GAP
    # A fifth of the tokens, well chosen, is worth more than a fifth of the gap.
    assert together >= alone + 0.3 * (teacher - alone)


@pytest.mark.slow
def test_a_budget_is_kept_on_rows_it_was_not_calibrated_on(write):
    traces = write("learned", 0.2)
    assert teacher_use(traces) == pytest.approx(0.2, abs=0.03)
    assert all(trace.finished for trace in traces)


@pytest.mark.slow
def test_generate_without_a_model_uses_it(tmp_path):
    command = [sys.executable, "-m", "wheels", "generate", "--teacher-budget", "0.2", "--format", "json"]
    text = "Der Film war viel zu lang."
    done = subprocess.run([*command, text], cwd=ROOT, capture_output=True, text=True, check=True)
    output = json.loads(done.stdout)
    assert output["text"]
    assert output["budget"] == 0.2


@pytest.fixture(scope="module")
def tiny() -> Pair:
    task = Task("t", {"train": [Row("ja nein", "yes no"), Row("nein ja", "no yes")]})
    size = ModelSize(16, 1, 2, 16)
    return Pair.build(task, student=size, teacher=ModelSize(24, 1, 2, 16), vocab_size=270)


def test_rounding_keeps_every_weight_to_half_precision_and_the_tokenizer(tiny, tmp_path):
    tiny.save_student(tmp_path / "whole")
    write_half(tmp_path / "whole", tmp_path / "half")
    whole, half = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "half"))
    assert whole.keys() == half.keys()
    for name, tensor in whole.items():
        assert torch.equal(half[name], tensor.half()), name
    tiny.save_teacher(tmp_path / "teacher")
    again = Pair.load(tmp_path / "half", tmp_path / "teacher")
    assert again.encode(["ja nein"]) == tiny.encode(["ja nein"])
    assert (tmp_path / "half" / "tokenizer.json").read_text().count("\n") == 1


def test_a_pair_that_is_put_together_can_be_moved(tiny, tmp_path):
    from wheels.models.artefact import save_deferral
    from wheels.policy.features import feature_width
    from wheels.policy.head import DeferralHead, HeadConfig
    from wheels.policy.span_head import SpanHead

    tiny.save_student(tmp_path / "student")
    tiny.save_teacher(tmp_path / "teacher")
    round_pair(tmp_path / "student", tmp_path / "teacher", tmp_path / "rounded")
    head = DeferralHead(HeadConfig(feature_width(16), 8))
    trained = {"settings": {"student": "/here", "teacher": "/there", "output": "/away", "limit": 3}}
    written = {"teacher": "/there", "prompt": "{source}", "trained": trained}
    save_deferral(tmp_path / "policy", {"learned": [head]}, **written, spans=[SpanHead((2, 4))])
    (tmp_path / "corpus.tsv.xz").write_bytes(b"sentences")
    assemble(tmp_path / "rounded", tmp_path / "policy", tmp_path / "corpus.tsv.xz", tmp_path / "pair")
    (tmp_path / "pair").rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "corpus.tsv.xz").read_bytes() == b"sentences"
    for name in ("rounded", "policy", "student", "teacher"):
        (tmp_path / name).rename(tmp_path / f"gone-{name}")
    artefact = Artefact.load(tmp_path / "moved")
    assert artefact.pair.teacher.config.d_model == 24
    assert [head.spans_K.tolist() for head in artefact.spans] == [[2, 4]]
    for name, tensor in head.state_dict().items():
        assert torch.equal(artefact.head("learned").state_dict()[name], tensor.half().float()), name
    assert "/" not in json.dumps(artefact.config["trained"])


def test_the_recipe_gives_stages_for_a_work_folder_anywhere(tmp_path):
    stages = retrain_stages(DemoConfig(), tmp_path, Recipe.read(RECIPE, SECTIONS))
    assert all(tmp_path in place.parents for stage in stages for place in stage.results)


@pytest.mark.slow
def test_a_text_beyond_it_is_followed_by_a_line_and_no_other_is(call_generate, tmp_path):
    code, out, told = call_generate("Guten Tag, wie geht es dir?")
    assert code == 0 and "beyond" not in told
    (tmp_path / "texts.txt").write_text("How are you today?\nGuten Tag.\n", encoding="utf-8")
    code, out, told = call_generate("--input", str(tmp_path / "texts.txt"))
    assert code == 0 and len(out.splitlines()) == 2
    assert "1 of 2 texts are beyond the embedded pair" in told and "--model DIR" in told
    assert "this text is beyond" in call_generate("How are you today?")[2]
    assert "beyond" not in call_generate("--quiet", "How are you today?")[2]


@pytest.fixture
def call_generate(capsys, caplog):
    def run(*flags: str) -> tuple[int, str, str]:
        caplog.clear()
        code = main(["generate", *flags])
        shown = capsys.readouterr()
        return code, shown.out, shown.err + caplog.text

    return run


@pytest.mark.slow
def test_everyday_sentences_get_better_with_the_teachers_tokens(artefact):
    sources, references = zip(*EVERYDAY, strict=True)

    def written(budget: float) -> float:
        traces = decode(artefact.pair, sources, deferral(calibrated(artefact, "learned", budget), budget))
        return score("chrf", [trace.text for trace in traces], list(references)).value

    student, together, teacher = written(0.0), written(0.2), written(1.0)
    assert student + MARGIN <= together <= teacher - MARGIN, (student, together, teacher)
