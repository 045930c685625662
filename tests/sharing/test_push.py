"""Sharing a trained model: what is written loads anywhere, tells its figures, and names no place of this machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from transformers import AutoModelForSeq2SeqLM

import wheels
from wheels.cli.main import main
from wheels.errors import WheelsError
from wheels.files import read_object
from wheels.models.artefact import embedded_folder
from wheels.sharing.config import PushConfig
from wheels.sharing.push import stage

ROOT = Path(__file__).parents[2]
CURVE = ROOT / "benchmarks" / "results" / "embedded-translation"
TEXT = "Vergiss nicht, das Licht auszumachen."


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """The embedded pair as it would be pushed."""
    place = tmp_path_factory.mktemp("shared") / "pair"
    command = ["push", "--model", str(embedded_folder()), "--to", "owner/pair", "--results", str(CURVE)]
    assert main([*command, "--license", "apache-2.0", "--output", str(place)]) == 0
    return place


@pytest.fixture(scope="module")
def own() -> wheels.Trace:
    return wheels.Model.embedded().generate([TEXT], teacher_budget=0.2)[0]


def head_of(shared: Path) -> dict:
    return yaml.safe_load((shared / "README.md").read_text(encoding="utf-8").split("---\n")[1])


def test_what_is_shared_writes_as_the_model_does(shared, own):
    (trace,) = wheels.Model.load(shared).generate([TEXT], teacher_budget=0.2)
    assert (trace.token_ids, trace.authors) == (own.token_ids, own.authors)


def test_transformers_alone_finds_the_teacher_and_the_rule(shared, own):
    student, model = AutoModelForSeq2SeqLM.from_pretrained(shared), wheels.Model.embedded()
    inputs = model.pair.tokenizer([TEXT], return_tensors="pt")
    written = student.generate(
        **inputs, custom_generate=str(shared), trust_remote_code=True, teacher_budget=0.2, max_new_tokens=64
    )
    assert model.pair.tokenizer.decode(written[0], skip_special_tokens=True).strip() == own.text


def test_the_card_has_the_figures_of_the_curve(shared):
    head, curve = head_of(shared), read_object(CURVE / "curve.json")
    assert (head["license"], head["library_name"]) == ("apache-2.0", "wheels")
    results = head["model-index"][0]["results"]
    found = {figure["name"]: figure["value"] for result in results for figure in result["metrics"]}
    assert found["bleu, student alone"] == round(curve["student"]["metrics"]["bleu"], 2)
    (point,) = (p for p in curve["points"] if (p["rule"], p["budget"]) == ("learned", 0.2))
    assert found["bleu, learned, budget 0.2"] == round(point["metrics"]["bleu"], 2)
    text = (shared / "README.md").read_text(encoding="utf-8")
    assert f"| `learned`, budget 0.2 | {point['use']:.2f} | {point['metrics']['bleu']:.1f} |" in text
    assert "2,000 texts of embedded-translation" in text


def test_nothing_names_a_place_of_this_machine(shared):
    for file in [*shared.rglob("*.json"), *embedded_folder().rglob("*.json")]:
        if not file.name.startswith("tokenizer"):
            assert not [word for word in strings(json.loads(file.read_text())) if word.startswith("/")], file
    assert not (shared / "resolved.json").exists()


def strings(value: object) -> list[str]:
    if isinstance(value, dict):
        value = [*value.values()]
    if isinstance(value, list):
        return [word for each in value for word in strings(each)]
    return [value] if isinstance(value, str) else []


def test_a_teacher_that_others_do_not_have_is_refused_and_one_of_the_hub_is_named(tmp_path):
    model, teacher = shutil.copytree(embedded_folder(), tmp_path / "model"), tmp_path / "elsewhere"
    (model / "teacher").rename(teacher)
    path = model / "deferral" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"teacher": str(teacher)}))
    (tmp_path / "place").mkdir()
    with pytest.raises(
        WheelsError, match=r"a folder that others do not have; push it too, and .* --teacher owner/name"
    ):
        stage(PushConfig(model=str(model), to="owner/pair"), tmp_path / "place")
    (tmp_path / "named").mkdir()
    stage(PushConfig(model=str(model), to="owner/pair", teacher="owner/big@v1"), tmp_path / "named")
    assert read_object(tmp_path / "named" / "deferral" / "config.json")["teacher"] == "owner/big@v1"
    assert head_of(tmp_path / "named")["base_model"] == "owner/big"
    assert not (tmp_path / "named" / "teacher").exists()


@pytest.mark.parametrize(("name", "value"), [("to", "pair"), ("to", "a/b@main"), ("teacher", "runs"), ("to", "a/b/c")])
def test_a_repository_has_an_owner_and_a_name(name, value):
    with pytest.raises(WheelsError, match=f"{name} must be a repository"):
        PushConfig(**{"model": "m", "to": "owner/pair", name: value})


def test_what_is_uploaded_is_what_is_written(shared, monkeypatch, capsys):
    seen = {}

    class Api:
        def create_repo(self, name, *, private, exist_ok):
            seen["made"] = (name, private, exist_ok)

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            files = {file.relative_to(folder_path): file for file in Path(folder_path).rglob("*") if file.is_file()}
            seen["files"] = {name: file.read_bytes() for name, file in files.items()}
            return SimpleNamespace(commit_url=f"https://hub/{repo_id}")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    command = ["push", "--model", str(embedded_folder()), "--to", "owner/pair", "--results", str(CURVE), "--private"]
    assert main([*command, "--license", "apache-2.0"]) == 0
    assert seen["made"] == ("owner/pair", True, True)
    there = {file.relative_to(shared): file.read_bytes() for file in shared.rglob("*") if file.is_file()}
    assert seen["files"] == there
    assert "pushed to https://hub/owner/pair" in capsys.readouterr().out


def test_only_what_was_pushed_is_replaced(shared, tmp_path, capsys):
    """A folder of the user's own is none of ours; one that was written before is."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    command = ["push", "--model", str(embedded_folder()), "--to", "owner/pair", "--output"]
    assert main([*command, str(tmp_path / "mine")]) == 2
    assert "mine holds something else (thesis.tex); give a new or an empty folder" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    before = (shared / "model.safetensors").read_bytes()
    shutil.copytree(shared, tmp_path / "pushed")
    (tmp_path / "pushed" / "model.safetensors").write_text("cut")
    assert main([*command, str(tmp_path / "pushed")]) == 0
    assert (tmp_path / "pushed" / "model.safetensors").read_bytes() == before


def test_what_the_hub_says_is_one_line(capsys):
    assert main(["push", "--model", str(embedded_folder()), "--to", "owner/pair"]) == 2
    assert "the Hub did not take owner/pair" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_is_loaded_from_where_it_was_pushed(shared, own, tmp_path, monkeypatch):
    repository, commit = tmp_path / "hub" / "models--owner--pair", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(shared, repository / "snapshots" / commit)
    for constant in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(f"huggingface_hub.constants.{constant}", str(tmp_path / "hub"), raising=False)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    assert wheels.Model.load("owner/pair").generate([TEXT], teacher_budget=0.2)[0].text == own.text
    student, tokenizer = AutoModelForSeq2SeqLM.from_pretrained("owner/pair"), wheels.Model.embedded().pair.tokenizer
    inputs = tokenizer([TEXT], return_tensors="pt")
    written = student.generate(
        **inputs, custom_generate="owner/pair", trust_remote_code=True, teacher_budget=0.2, max_new_tokens=64
    )
    assert tokenizer.decode(written[0], skip_special_tokens=True).strip() == own.text
    with pytest.raises(WheelsError, match=r"no model folder 'owner/other', and no repository .*HF_HUB_OFFLINE=1"):
        wheels.Model.load("owner/other")
