"""lm-evaluation-harness asks the server as `local-completions`, and finds what it finds in the teacher's folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.decoding.serve.harness import served, until
from tests.decoding.tiny import make_pair
from wheels.models.artefact import Artefact
from wheels.policy.calibration import Calibration

pytestmark = pytest.mark.slow
lm_eval = pytest.importorskip("lm_eval")
pytest.importorskip("tenacity")  # of lm_eval's extra `api`

ROWS = [
    {"question": "the cat sat", "choices": [" on the mat", " under a dog"], "answer": 0},
    {"question": "a dog", "choices": [" ran", " sat on the cat"], "answer": 1},
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: {target}
{more}
"""
CHOICE = 'doc_to_choice: "{{choices}}"\nmetric_list: [{metric: acc}]'
WRITE = "generation_kwargs: {until: ['\\n'], max_gen_toks: 6}\nmetric_list: [{metric: exact_match}]"


def found(model: str, arguments: dict[str, Any], tasks: Path) -> dict[str, list[Any]]:
    """Return the model's answers in each task."""
    from lm_eval.tasks import TaskManager

    names, manager = ["choose", "write"], TaskManager(include_path=str(tasks), include_defaults=False)
    result = lm_eval.simple_evaluate(model, arguments, tasks=names, task_manager=manager, bootstrap_iters=0)
    return {name: [sample["filtered_resps"] for sample in result["samples"][name]] for name in names}


def test_local_completions_finds_what_the_folder_gives(tmp_path: Path) -> None:
    pair = make_pair("llama")
    folder, rows = tmp_path / "teacher", tmp_path / "rows.json"
    pair.teacher.save_pretrained(folder)
    pair.tokenizer.save_pretrained(folder)
    rows.write_text("\n".join(map(json.dumps, ROWS)))
    choose = TASK.format(name="choose", rows=rows, kind="multiple_choice", target="answer", more=CHOICE)
    write = TASK.format(name="write", rows=rows, kind="generate_until", target="question", more=WRITE)
    (tmp_path / "choose.yaml").write_text(choose)
    (tmp_path / "write.yaml").write_text(write)
    artefact = Artefact(pair, {}, Calibration(), student_name="big")
    with served(artefact, rule="random", teacher_budget=1.0, longest_output=40) as running:
        arguments = {"model": "big", "base_url": f"{running.url}/v1/completions", "tokenizer": str(folder)}
        there = found("local-completions", arguments | {"tokenizer_backend": "huggingface"}, tmp_path)
        until(running.idle)
    here = found("hf", {"pretrained": str(folder), "dtype": "float32", "device": "cpu"}, tmp_path)
    for row, own in zip(there["choose"], here["choose"], strict=True):
        for (score, greedy), (expected, its) in zip(row, own, strict=True):
            assert score == pytest.approx(expected, abs=1e-4) and greedy == its
    assert there["write"] == here["write"]
