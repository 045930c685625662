"""A trained model's folder: what is written comes back, and what is missing or damaged is said."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

from tests.decoding.tiny import make_pair, save_artefact
from wheels.errors import WheelsError
from wheels.models import artefact as module
from wheels.models.artefact import Artefact, read_heads, save_deferral
from wheels.policy.calibration import Calibration, Point
from wheels.policy.features import feature_width
from wheels.policy.head import DeferralHead, HeadConfig
from wheels.policy.span_head import SpanHead

POINT = Point("entropy", 0, 0.2, 1.0, 0.2)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return save_artefact(tmp_path_factory.mktemp("artefact") / "model")


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "model")


def test_what_is_written_comes_back(folder):
    Calibration([POINT], "task:validation").save(folder / "deferral" / "calibration.json")
    loaded, pair = Artefact.load(folder), make_pair("t5")
    assert (loaded.student_name, loaded.teacher_name) == (f"{folder.parent.name}/model", "model/teacher")
    assert loaded.folder == folder
    assert loaded.calibration == Calibration([POINT], "task:validation")
    assert loaded.config["trained"] == {"steps": 0} and loaded.config["teacher"] == "teacher"
    for kept, own in ((loaded.pair.student, pair.student), (loaded.pair.teacher, pair.teacher)):
        for name, value in own.state_dict().items():
            assert kept.state_dict()[name].equal(value.float()), name
    assert {rule: len(heads) for rule, heads in loaded.heads.items()} == {"learned": 2, "regret": 2}
    head = loaded.head("learned", 1)
    assert not head.training and not any(parameter.requires_grad for parameter in head.parameters())


def test_a_price_lies_between_those_that_were_learned():
    trained = {"budgets": [0.1, 0.3], "prices": [[4.0, 2.0], [6.0, 1.0]]}
    made = Artefact(None, {}, Calibration(), {"trained": trained})
    assert [made.price("learned", budget) for budget in (0.05, 0.1, 0.15, 0.3, 0.4)] == [None, 4.0, 3.5, 2.0, None]
    assert made.price("learned", 0.2, seed=1) == pytest.approx(3.5)
    assert made.price("regret", 0.2) is None is made.price("learned", 0.2, seed=2)
    assert Artefact(None, {}, Calibration(), {"trained": {}}).price("learned", 0.2) is None


def test_what_spans_gain_comes_back_and_goes_with_the_heads(folder):
    place, loaded = folder / "deferral" / "spans.safetensors", Artefact.load(folder)
    assert loaded.spans == [] and not place.exists()
    torch.manual_seed(0)
    spans = [SpanHead((2, 4)), SpanHead((2, 4, 8))]
    settings = {"teacher": "teacher", "prompt": "{source}", "trained": {}}
    save_deferral(folder, loaded.heads, **settings, spans=spans)
    for made, read in zip(spans, Artefact.load(folder).spans, strict=True):
        assert not read.training and not any(parameter.requires_grad for parameter in read.parameters())
        assert all(value.equal(made.state_dict()[name]) for name, value in read.state_dict().items())
    whole = place.read_bytes()
    place.write_bytes(whole[:-40])
    with pytest.raises(WheelsError, match=r"spans\.safetensors: damaged or of another shape .*; train again"):
        Artefact.load(folder)
    save_deferral(folder, loaded.heads, **settings)
    assert not place.exists(), "those of other heads"


def test_heads_come_back_in_the_order_of_their_seeds(tmp_path):
    config = HeadConfig(features=3, width=4)
    heads = [DeferralHead(config) for _ in range(12)]  # 10 would stand before 2 among names
    save_deferral(tmp_path, {"learned": heads}, teacher="teacher", prompt="{source}", trained={})
    found = read_heads(tmp_path / "deferral" / "model.safetensors", config)["learned"]
    features_NF, budget_N = torch.randn(5, 3), torch.rand(5)
    for kept, own in zip(found, heads, strict=True):
        assert kept.gain(features_NF, budget_N).equal(own.gain(features_NF, budget_N))


def test_the_folder_is_a_students_own(folder):
    assert AutoModelForSeq2SeqLM.from_pretrained(folder).config.d_model == 16


def test_a_new_training_drops_the_old_calibration(folder):
    Calibration([POINT]).save(folder / "deferral" / "calibration.json")
    head = DeferralHead(HeadConfig.of(feature_width(16), 14, width=8))
    save_deferral(folder, {"learned": [head]}, teacher="teacher", prompt="{source}", trained={})
    assert Artefact.load(folder).calibration == Calibration()


def test_the_teacher_is_found_where_the_folder_stands(folder, tmp_path):
    moved = shutil.move(folder, tmp_path / "elsewhere")
    assert Artefact.load(moved).teacher_name == "elsewhere/teacher"
    shutil.move(moved / "teacher", tmp_path / "large")
    assert Artefact.load(moved, teacher=str(tmp_path / "large")).teacher_name == "large"
    for place in ("../large", str(tmp_path / "large")):
        change(moved, teacher=place)
        assert Artefact.load(moved).teacher_name == "large"


def test_a_student_that_was_never_trained_to_call_is_paired_with_its_teacher(folder, tmp_path, monkeypatch):
    teacher = str(folder / "teacher")
    assert "learned" in Artefact.of_student(folder, teacher).heads
    shutil.copytree(folder, tmp_path / "plain", ignore=shutil.ignore_patterns("deferral"))
    plain = Artefact.of_student(str(tmp_path / "plain"), teacher)
    assert (plain.heads, plain.calibration.points, plain.student_name) == ({}, [], "plain")
    with pytest.raises(WheelsError, match=r"plain has no deferral/config.json"):
        Artefact.of_student(tmp_path / "plain", None)
    monkeypatch.setattr(module, "model_folder", lambda name: folder)  # a repository of the Hub that was trained
    assert "learned" in Artefact.of_student("owner/name", teacher).heads


def test_digests_name_weights(folder):
    first, again = Artefact.load(folder), Artefact.load(folder)
    digests = [first.head_digest(rule, seed) for rule in ("learned", "regret") for seed in (0, 1)]
    assert len(set(digests)) == 4 and all(len(digest) == 16 for digest in digests)
    assert again.head_digest("learned", 0) == digests[0] and again.digest == first.digest
    assert first.head_digest("entropy", 0) == "" == first.head_digest("learned", 2)
    next(again.pair.teacher.parameters()).data += 1e-3
    again.head("learned", 0).mean_F += 1.0
    assert again.digest != first.digest
    assert again.head_digest("learned", 0) != digests[0] and again.head_digest("learned", 1) == digests[1]


def change(folder, **values) -> None:
    """Change some of `deferral/config.json`; None takes a value out."""
    path = folder / "deferral" / "config.json"
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def cut_heads(folder) -> None:
    path = folder / "deferral" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def poison_heads(folder) -> None:
    path = folder / "deferral" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if name.startswith("regret.1.") and name.endswith("weight"))
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "no model folder '.*model'; give what `wheels train --output` wrote"),
        (
            lambda folder: shutil.rmtree(folder / "deferral"),
            "model has no deferral/config.json; give what `wheels train --output` wrote",
        ),
        (lambda folder: change(folder, format=7), "config.json: not of format 1; train again with this version"),
        (lambda folder: change(folder, prompt=None), "config.json: damaged at 'prompt'; train again"),
        (lambda folder: change(folder, head={"widht": 3}), "config.json: damaged at 'head'; train again"),
        (
            lambda folder: change(folder, head={"features": 3, "width": 8}),
            "model.safetensors: damaged or of another shape .*; train again",
        ),
        (poison_heads, r"damaged or of another shape \(regret\.1\..*weight is no finite number\); train again"),
        (cut_heads, "model.safetensors: damaged or of another shape .*; train again"),
        (
            lambda folder: (folder / "deferral" / "model.safetensors").unlink(),
            "cannot read .*model.safetensors: No such file or directory; train again",
        ),
        (
            lambda folder: shutil.rmtree(folder / "teacher"),
            "the teacher of .*model is not at '.*model/teacher'; say where it is by --teacher",
        ),
        (
            lambda folder: change(folder, teacher="someone/unknown"),
            "no teacher folder 'someone/unknown', and the Hub is off",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"xx"),
            "cannot load the student",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_missing_or_damaged_is_said(folder, damage, message):
    damage(folder)
    with pytest.raises(WheelsError, match=message):
        Artefact.load(folder)


def test_a_head_that_was_not_trained_is_refused(folder):
    loaded = Artefact.load(folder)
    with pytest.raises(WheelsError, match=r"rule 'learned' has no trained head of seed 2 \(trained: seeds 0 to 1\)"):
        loaded.head("learned", 2)
    with pytest.raises(
        WheelsError, match=r"rule 'other' has no trained head of seed 0 \(trained: none\); give another rule"
    ):
        loaded.head("other")


def test_an_installation_without_the_embedded_pair_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "embedded_folder", lambda: tmp_path / "none")
    with pytest.raises(WheelsError, match=r"the embedded pair is not in this installation; give .* by --model DIR"):
        Artefact.load()


def test_heads_of_another_vocabulary_are_refused(folder):
    other = DeferralHead(HeadConfig.of(feature_width(16), 90, width=8))
    save_deferral(folder, {"learned": [other]}, teacher="teacher", prompt="{source}", trained={})
    with pytest.raises(WheelsError, match="vocabulary of 90 tokens, and this pair has 14; give the teacher"):
        Artefact.load(folder)


def test_a_head_of_an_older_version_knows_no_tokens(folder):
    head = {"features": feature_width(16), "width": 8}
    save_deferral(
        folder, {"learned": [DeferralHead(HeadConfig(**head))]}, teacher="teacher", prompt="{source}", trained={}
    )
    change(folder, head=head)
    assert Artefact.load(folder).head("learned").config.candidates == 0


def test_the_digest_knows_what_the_models_are_told_to_write(folder):
    first = Artefact.load(folder)
    other = Artefact.load(folder)
    assert first.digest == other.digest
    other.pair.teacher.generation_config.suppress_tokens = [7]
    assert first.digest != other.digest
