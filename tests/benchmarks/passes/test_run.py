"""`wheels bench passes`: every family at its settings and seeds, a rerun that repeats nothing, what is refused."""

import csv
import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from tests.decoding.tiny import save_artefact
from wheels.benchmarks.core import decodes
from wheels.benchmarks.passes import run as passes
from wheels.benchmarks.passes.config import FAMILIES, PassesConfig
from wheels.benchmarks.passes.run import Split, _signature, generate_command, run
from wheels.benchmarks.passes.settings import ends, settings_of, sweep_of, tuned
from wheels.config.parsing import parse
from wheels.decoding.commands.generate import method_of
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.errors import WheelsError
from wheels.models.artefact import Artefact
from wheels.policy.calibration import Calibration, Point

ROWS = [("a b c", "a b"), ("k j i h", "c d"), ("d", "e"), ("e a e a", "f g"), ("c c", "h")]


@pytest.fixture
def config(tmp_path) -> PassesConfig:
    model = save_artefact(tmp_path / "model")
    points = [Point("learned", seed, 0.2, -seed / 10, 0.2) for seed in (0, 1)] + [Point("maxprob", 0, 0.2, 0.9, 0.2)]
    Calibration(points).save(model / "deferral" / "calibration.json")
    return PassesConfig(
        model=str(model), data=rows_file(tmp_path / "test.jsonl", ROWS), budgets=(0.2,), metrics=("chrf", "bleu"),
        max_new_tokens=8, resamples=100, output=str(tmp_path / "out"),
    )  # fmt: skip


def rows_file(path, rows) -> str:
    path.write_text("".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in rows))
    return str(path)


@pytest.mark.slow
def test_every_family_is_measured_and_kept(config, tmp_path, capsys, monkeypatch):
    points = run(config)
    assert list(dict.fromkeys(point["family"] for point in points)) == ["student", "teacher", *FAMILIES]
    student, teacher = points[:2]
    assert (student["passes"], student["use"], teacher["passes"], teacher["use"]) == (0.0, 0.0, 1.0, 1.0)
    lossless = [point for point in points if point["family"] in ("speculative", "lookup")]
    assert len(lossless) == 5 and all(point["metrics"] == teacher["metrics"] for point in lossless)
    folder = tmp_path / "out"
    kept = json.loads((folder / "passes.json").read_text())
    assert [point["label"] for point in kept["points"]] == [point["label"] for point in points]
    assert {"bands", "at_passes", "versus", "speculation", "metrics", "versions"} <= kept.keys()
    assert kept["notes"] == ["learned was trained with 2 of the 3 seeds asked for"] and kept["tuned"] == []
    assert len(list(csv.reader((folder / "passes.csv").open()))) == len(points) + 1
    assert (folder / "passes.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "verified, budget 0.2, 2 nats" in said and "what lossless speculation does not offer" in said
    monkeypatch.setattr(decodes, "decode", lambda *args, **kwargs: pytest.fail("decoded again"))
    assert run(config) == points


def test_trained_heads_are_decoded_once_a_seed_and_the_others_once(config):
    artefact = Artefact.load(config.model)
    settings = settings_of(config, artefact)
    seeds = {family: {each.seed for each in settings if each.family == family} for family in FAMILIES}
    ruled = ("deferral", "verified", "verified-all", "priced")
    assert seeds == {family: {0, 1} if family in ruled else {None} for family in FAMILIES}
    thresholds = {each.seed: each.method.rule.threshold for each in settings if each.family == "deferral"}
    assert thresholds == {0: 0.0, 1: -0.1}
    assert {each.seed for each in settings_of(replace(config, seeds=1), artefact)} == {None, 0}


def test_settings_have_names_of_their_own(config):
    artefact = Artefact.load(config.model)
    for settings in (settings_of(config, artefact), sweep_of(config, artefact, 0)):
        assert len({setting.key.file_name for setting in settings}) == len(settings)
        assert all("/" not in setting.key.file_name for setting in settings)


@pytest.mark.slow
def test_a_rule_that_is_no_price_leaves_priced_out(config, capsys):
    points = run(replace(config, rule="maxprob", families=("deferral", "priced")))
    assert [(point["family"], point["seed"]) for point in points[2:]] == [("deferral", None)]
    assert "note: priced is left out: thresholds of maxprob are no nats" in capsys.readouterr().out


@pytest.mark.slow
def test_tuned_settings_are_chosen_on_other_rows(config, tmp_path, monkeypatch):
    data = rows_file(tmp_path / "validation.jsonl", [(source, target + " a") for source, target in reversed(ROWS)])
    wish = replace(config, families=("deferral",), tune_data=data, tune_limit=4)
    points = run(wish)
    kept = json.loads((tmp_path / "out" / "passes.json").read_text())
    chosen = [each["name"] for each in kept["tuned"] if each["chosen"]]
    artefact = Artefact.load(config.model)
    assert [each["name"] for each in kept["tuned"]] == [each.name for each in sweep_of(config, artefact, 0)]
    assert chosen and {point["label"] for point in points if point["family"] == "tuned"} == set(chosen)
    assert kept["tuned_on_rows"] == 4 and kept["tuned_on"] != kept["data_digest"]
    monkeypatch.setattr(decodes, "decode", lambda *args, **kwargs: pytest.fail("decoded again"))
    assert run(wish) == points


def test_a_tuned_setting_is_the_decode_of_the_one_that_was_chosen(config):
    settings = settings_of(config, Artefact.load(config.model))
    (first, second) = tuned(settings, ["verified, budget 0.2, 1 nats"])
    assert (first.family, first.line, first.seed, second.seed) == ("tuned", "tuned", 0, 1)
    assert [each.key for each in settings if each.label == "budget 0.2, 1 nats" and each.family == "verified"] == [
        first.key, second.key
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_every_setting_of_the_sweep_is_a_command_that_decodes_alike(config, seed):
    config = replace(config, scales=(0.5, 2.0))
    points = [Point("learned", head, 0.2, 1.5 + head, 0.2) for head in (0, 1)]
    Calibration(points).save(Path(config.model) / "deferral" / "calibration.json")
    artefact = Artefact.load(config.model)
    settings = sweep_of(config, artefact, seed)
    assert {setting.family for setting in settings} == {"deferral", "verified", "verified-all", "priced", "take-back"}
    for setting in [*settings, *tuned(settings, ["priced, budget 0.2, scale 2, to the end, at most 8 tokens"])]:
        command = shlex.split(generate_command(config, setting))
        method = method_of(parse(GenerateConfig, command[2:], prog="wheels generate"), artefact)
        own = setting.method
        assert command[:2] == ["wheels", "generate"] and command[-1] == "TEXT"
        assert (method.name, method.verifier, method.draft) == (own.name, own.verifier, own.draft), command
        assert method.budget == own.budget
        assert own.rule is None or method.rule.threshold == own.rule.threshold == 1.5 + seed


def test_the_scored_rows_are_not_tuned_on(config):
    with pytest.raises(WheelsError, match="settings of the family tuned would be chosen on the very rows"):
        run(replace(config, tune_data=config.data, tune_split="test"))


def test_the_rows_of_the_calibration_are_refused(config, monkeypatch):
    monkeypatch.setattr(passes, "rows_digest", lambda rows: None)  # what an uncalibrated digest is
    with pytest.raises(WheelsError, match="calibrated on the very rows that are to be scored"):
        run(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"families": ()}, "families must hold at least one value, got none"),
        ({"scales": (-1.0,)}, "scales must be at least 0, got -1"),
        ({"scales": ()}, "scales must hold at least one value, got none"),
        ({"budgets": (2.0,)}, r"budgets must be in \[0, 1\], got 2"),
        ({"families": ("spekulative",)}, "families must be one of .*did you mean 'speculative'"),
    ],
)
def test_what_is_refused(values, message):
    with pytest.raises(WheelsError, match=message):
        PassesConfig(**values)


@pytest.mark.slow
def test_results_of_other_settings_are_kept(config, tmp_path):
    once = replace(config, families=("lookup",), metrics=("chrf",))
    run(once)
    before = (tmp_path / "out" / "passes.json").read_bytes()
    with pytest.raises(WheelsError, match=r"out holds a run with families \['lookup'\], not \['bild'\]; give another"):
        run(replace(once, families=("bild",)))
    rows_file(tmp_path / "test.jsonl", ROWS[:4])
    with pytest.raises(WheelsError, match="out holds a run with data_digest"):
        run(once)
    assert (tmp_path / "out" / "passes.json").read_bytes() == before
    with pytest.raises(WheelsError, match=r"holds something else \(config.json\)"):
        run(replace(once, output=str(save_artefact(tmp_path / "other"))))


def test_below_float32_outputs_are_of_one_batch_size(config):
    artefact = Artefact.load(config.model)
    split, setting = Split([], "digest", Path()), ends()[0]
    signed = [
        _signature(replace(config, dtype=dtype, batch_size=size), artefact, setting, split)
        for dtype in ("float32", "bfloat16")
        for size in (2, 3)
    ]
    assert signed[0] == signed[1] and signed[2] != signed[3]
