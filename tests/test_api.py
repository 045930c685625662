"""`wheels.Model`: the same outputs as the commands, rules with their thresholds, and what it refuses."""

import json
from pathlib import Path

import pytest

import wheels
from tests.decoding.tiny import make_pair, save_artefact
from tests.marks import slow
from wheels.cli.main import main
from wheels.data.rows import Row
from wheels.decoding.step import Step
from wheels.policy.calibration import Calibration, Point

TEXTS = ["Guten Tag.", "Vergiss nicht, das Licht auszumachen.", "Das ist ein Haus."]
LIMIT = 16


@pytest.fixture(scope="module")
def model() -> wheels.Model:
    return wheels.Model.embedded()


@pytest.fixture(scope="module")
def tiny() -> wheels.Model:
    return wheels.Model(make_pair("t5"))


def by_command(capsys, *flags: str) -> list[dict]:
    """Return what `wheels generate` writes as JSON."""
    assert main(["generate", "--format", "json", "--max-new-tokens", str(LIMIT), *flags]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def as_written(traces: list[wheels.Trace]) -> list[dict]:
    return [{name: value for name, value in trace.to_json().items() if name != "seconds"} for trace in traces]


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        ([], {}),
        *slow(
            (["--teacher-budget", "0.3", "--rule", "entropy"], {"teacher_budget": 0.3, "rule": "entropy"}),
            (["--budget-mode", "strict", "--batch-size", "1"], {"mode": "strict", "batch_size": 1}),
            (["--budget-mode", "online", "--rule", "maxprob"], {"mode": "online", "rule": "maxprob"}),
        ),
        (["--method", "speculative"], {"method": wheels.speculative(5)}),
        (
            ["--rule", "random", "--seed", "3", "--temperature", "0.7", "--top-k", "5"],
            {"rule": "random", "seed": 3, "sampling": wheels.Sampling(0.7, 5)},
        ),
    ],
)
def test_the_outputs_are_those_of_the_command(model, capsys, tmp_path, flags, arguments):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS), encoding="utf-8")
    expected = by_command(capsys, "--input", str(texts), *flags)
    for record in expected:
        record.pop("seconds")
    assert as_written(model.generate(TEXTS, max_new_tokens=LIMIT, **arguments)) == expected
    streamed = dict(model.stream(TEXTS, max_new_tokens=LIMIT, **arguments))
    assert as_written([streamed[index] for index in range(len(TEXTS))]) == expected


def test_models_in_memory_and_folders_write_the_same(tmp_path):
    folder = save_artefact(tmp_path / "model")
    loaded = wheels.Model.load(folder, teacher=folder / "teacher")
    pair = wheels.Pair.load(folder, folder / "teacher")
    told = {"rule": "random", "teacher_budget": 0.4, "max_new_tokens": 8}
    assert as_written(loaded.generate(["a b c", "d"], **told)) == as_written(
        wheels.Model(wheels.Pair.of(pair.student, pair.teacher, pair.tokenizer)).generate(["a b c", "d"], **told)
    )
    assert "learned" in loaded.rules and "learned" not in wheels.Model(pair).rules


def test_a_rule_knows_its_thresholds_and_deferral_takes_that_of_its_budget(model):
    rule = model.rule("learned")
    for budget in (0.1, 0.2, 0.25):
        method = wheels.deferral(rule, budget=budget)
        assert method.rule.threshold == model.calibration.threshold("learned", budget)
        assert method.budget == method.rule.budget == budget
    with pytest.raises(wheels.WheelsError, match=r"is calibrated from .* only, .* budget 0.001; the embedded pair"):
        wheels.deferral(rule, budget=0.001)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "entropy"}, r"rule 'entropy' \(seed 0\) is not calibrated"),
        ({}, "rule 'learned' has no trained head"),
        ({"rule": "entropie"}, "rule must be one of .* did you mean 'entropy'"),
        (
            {"method": wheels.speculative(3), "teacher_budget": 0.2},
            "method 'speculative' has its own rule and budget; leave",
        ),
        ({"mode": "strickt", "rule": "random"}, "did you mean 'strict'"),
    ],
)
def test_what_nothing_would_keep_is_refused(tiny, arguments, message):
    with pytest.raises(wheels.WheelsError, match=message):
        tiny.generate(["a b c"], max_new_tokens=4, **arguments)


def test_a_threshold_by_hand_decides_alone(tiny):
    by_hand = tiny.rule("entropy").at(0.5)
    (trace,) = tiny.generate(["a b c"], rule=by_hand, max_new_tokens=8)
    assert trace.budget is None
    with pytest.raises(wheels.WheelsError, match=r"threshold 0\.5 decides alone"):
        tiny.generate(["a b c"], rule=by_hand, teacher_budget=0.2, max_new_tokens=8)
    (strict,) = tiny.generate(["a b c"], rule=by_hand, teacher_budget=0.25, mode="strict", max_new_tokens=8)
    assert strict.teacher_use <= 0.25


def gap(step: Step):
    """`-(log q_1 - log q_2)`."""
    best_B2 = step.log_q_BV.topk(2, dim=-1).values
    return best_B2[:, 1] - best_B2[:, 0]


@pytest.mark.slow
def test_calibrate_returns_a_model_with_thresholds_and_leaves_the_other(tiny):
    rows = [Row(" ".join("abcdefgh"[start : start + 4]), "") for start in range(5)] * 8
    own = wheels.Rule("gap", gap, label="calls where the two best tokens are close")
    done = wheels.calibrate(tiny, rows, budgets=(0.0, 0.3, 0.6), rules=("entropy", own), max_new_tokens=8)
    assert [(point.rule, point.budget) for point in done.calibration.points] == [
        ("entropy", 0.3), ("entropy", 0.6), ("gap", 0.3), ("gap", 0.6),
    ]  # fmt: skip
    assert tiny.calibration == Calibration() and done.calibration.rows == len(rows)
    for rule in ("entropy", own):
        traces = done.generate([row.source for row in rows], rule=rule, teacher_budget=0.3, max_new_tokens=8)
        use = sum(trace.teacher_tokens for trace in traces) / sum(trace.tokens for trace in traces)
        point = next(point for point in done.calibration.points if (point.rule, point.budget) == (traces[0].rule, 0.3))
        assert use == pytest.approx(point.use)
    with pytest.raises(wheels.WheelsError, match=r"'gap' .* not calibrated.*; measure one by wheels.calibrate"):
        tiny.generate(["a b c"], rule=own)
    with pytest.raises(wheels.WheelsError, match="there are no rows to calibrate on"):
        wheels.calibrate(tiny, [])


def test_a_rule_of_ones_own_takes_no_name_of_the_packages(tiny):
    with pytest.raises(wheels.WheelsError, match="rule 'entropy' has the name of one of the package's"):
        tiny.rule(wheels.Rule("entropy", gap))


@pytest.mark.parametrize("given", ["model", object(), None])
def test_a_model_is_made_of_a_pair(given):
    with pytest.raises(wheels.WheelsError, match=r"pair must be a Pair; Model\.load reads a folder, got"):
        wheels.Model(given)
    with pytest.raises(wheels.WheelsError, match="folder"):
        wheels.Model.load(object())


def test_training_returns_what_the_commands_leave(tmp_path, monkeypatch):
    monkeypatch.setattr("wheels.agents.run.run", lambda config: save_artefact(Path(config.output)))
    monkeypatch.setattr("wheels.distillation.run.run", lambda config: Path(config.output) / "done")
    folder = str(tmp_path / "model")
    config = wheels.TrainConfig(output=folder, data="d", student="s", teacher=f"{folder}/teacher", dtype="bfloat16")
    trained = wheels.train(config)
    assert isinstance(trained, wheels.Model) and "learned" in trained.rules
    assert str(trained.pair.dtype) == "torch.bfloat16"
    assert wheels.pretrain(wheels.PretrainConfig(output=folder)) == Path(folder) / "done"


def test_points_stay_where_the_model_is_not_calibrated_again(tmp_path):
    folder = save_artefact(tmp_path / "model")
    Calibration([Point("entropy", 0, 0.2, 1.0, 0.2)]).save(folder / "deferral" / "calibration.json")
    assert wheels.deferral(wheels.Model.load(folder).rule("entropy"), budget=0.2).rule.threshold == 1.0
