"""Thresholds that give the use that was asked for."""

import json
import random
import shlex

import pytest
import torch

from tests.decoding.tiny import make_pair, save_artefact, write
from tests.envs.tiny import WORDS
from tests.marks import slow
from wheels.cli.main import main
from wheels.decoding.commands import calibrate as calibrating
from wheels.decoding.commands.calibrate import ROUNDS, TOLERANCE, Bracket, as_table, calibrate
from wheels.decoding.methods.rule import Rule
from wheels.decoding.methods.rules import RULES, HeadScore, RouterScore
from wheels.decoding.trace import teacher_use
from wheels.models.pair import Pair
from wheels.policy.calibration import Calibration, Point
from wheels.policy.features import feature_width
from wheels.policy.head import DeferralHead, HeadConfig

BUDGETS = [0.15, 0.5]
LIMIT = 8
NEAR = 0.03
"""Six decodes of 40 short texts: some 300 tokens, and each threshold moves whole texts."""


def soft_pair() -> Pair:
    """A pair whose scores are close together: random weights are so sure that every margin rounds to 1."""
    pair = make_pair("llama")
    for model in (pair.student, pair.teacher):
        model.get_output_embeddings().weight.data *= 0.1
    return pair


def sources(count: int = 40) -> list[str]:
    draw = random.Random(1)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 9))) for _ in range(count)]


@pytest.mark.parametrize("name", ["entropy", *slow("margin", "foresight")])
def test_the_use_is_the_budget(name):
    pair = soft_pair()
    points = list(calibrate(pair, sources(), RULES[name], BUDGETS, seed=4, max_new_tokens=LIMIT))
    assert [(point.rule, point.seed, point.budget) for point in points] == [(name, 4, budget) for budget in BUDGETS]
    for point in points:
        assert abs(point.use - point.budget) < NEAR
        rule = RULES[name].at(point.threshold)
        again = write(pair, sources(), rule, budget=point.budget, max_new_tokens=LIMIT, batch_size=7)
        assert teacher_use(again) == point.use, "what is written down is what the threshold gives"
    assert points[0].threshold > points[1].threshold


def trained_rule(name: str, pair: Pair) -> Rule:
    """A rule with a head of random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        head = DeferralHead(HeadConfig(feature_width(pair.student.config.hidden_size), width=8)).requires_grad_(False)
    return Rule(name, (RouterScore if name == "router" else HeadScore)(head))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["first-k", "gate", "router"])
def test_the_use_is_near_the_budget_on_more_texts(name):
    pair = soft_pair()
    rule = RULES[name] if RULES[name].score is not None else trained_rule(name, pair)
    for point in calibrate(pair, sources(250), rule, [0.1, 0.4], max_new_tokens=LIMIT):
        assert abs(point.use - point.budget) < 0.01, point


def texts_use(score_N: torch.Tensor, length_N: torch.Tensor, threshold: float) -> float:
    """The share of the tokens that lie in texts whose score exceeds the threshold."""
    return float(length_N[score_N > threshold].sum() / length_N.sum())


def test_thresholds_of_whole_texts_close_in_whatever_their_scores():
    """Long texts gain the most and a few gain without measure: neither a quantile nor halving the scores would do."""
    length_N = torch.arange(1.0, 401.0)
    score_N = (length_N / 5).exp()
    budget = 0.1
    bracket, uses = Bracket(budget), []
    for _ in range(ROUNDS):
        guess = bracket.guess(score_N)
        uses.append(texts_use(score_N, length_N, guess))
        if abs(uses[-1] - budget) <= 0.003:
            break
        bracket.narrow(guess, uses[-1])
    assert abs(uses[0] - budget) > 0.05 and abs(uses[-1] - budget) <= 0.003
    low, high = float(score_N.quantile(1 - budget)), float(score_N.max())
    for _ in range(ROUNDS - 1):
        middle = (low + high) / 2
        use = texts_use(score_N, length_N, middle)
        low, high = (middle, high) if use > budget else (low, middle)
        assert abs(use - budget) > 0.01, "as many halvings do not get there"


def test_the_bracket_by_hand():
    score_N = torch.tensor([1.0, 2.0, 3.0, 4.0, 50.0])
    bracket = Bracket(0.25)
    assert bracket.guess(score_N) == 4.0, "the quantile 0.75"
    bracket.narrow(4.0, 0.5)
    assert (bracket.low, bracket.use_low, bracket.use_high) == (4.0, 0.5, 0.0)
    assert bracket.guess(torch.tensor([1.0, 6.0, 8.0])) == 7.0, "the quantile lies within"
    assert bracket.guess(torch.tensor([1.0] * 10 + [40.0, 50.0])) == 45.0, "use falls from 0.5 to 0 between both"
    bracket.narrow(45.0, 0.2)
    assert bracket.guess(score_N) == (4.0 + 45.0) / 2, "nothing was seen between"
    assert Bracket(0.25).guess(torch.empty(0)) is None


def test_the_search_ends_when_a_threshold_gives_the_budget(monkeypatch):
    """One decode without calls for all budgets, then one for each guess: the first is already near enough."""
    decodes: list[float] = []

    def of(pair, sources, method, params, **request):
        decodes.append(method.budget)
        method.rule.scores.append(torch.arange(10.0))
        return []

    monkeypatch.setattr(calibrating, "decode", of)
    monkeypatch.setattr(calibrating, "teacher_use", lambda traces: decodes[-1] + TOLERANCE / 2)
    points = list(calibrate(soft_pair(), ["a"], RULES["entropy"], BUDGETS))
    assert decodes == [BUDGETS[0], *BUDGETS]
    assert [point.threshold for point in points] == pytest.approx([9 * (1 - budget) for budget in BUDGETS])


@pytest.mark.slow
def test_the_threshold_of_one_budget_misses_another():
    pair, rule = soft_pair(), RULES["entropy"]
    low, high = calibrate(pair, sources(), rule, BUDGETS, max_new_tokens=LIMIT)
    swapped = write(pair, sources(), rule.at(low.threshold), budget=high.budget, max_new_tokens=LIMIT)
    assert abs(teacher_use(swapped) - high.budget) > 5 * NEAR


def test_a_score_that_says_nothing_is_told_by_its_use():
    rule = Rule("flat", lambda step: torch.full(step.position_B.shape, 2.0))
    (point,) = calibrate(soft_pair(), sources(5), rule, [0.3], max_new_tokens=LIMIT)
    assert (point.use, point.threshold) == (0.0, 2.0), "it can only never call or always; never is nearer"


def test_the_table():
    lines = as_table([Point("entropy", 0, 0.2, 1.23456, 0.19876), Point("margin", 1, 0.5, -0.5, 0.5)]).splitlines()
    assert [line.split() for line in lines] == [
        ["rule", "seed", "budget", "threshold", "use"],
        ["entropy", "0", "0.200", "1.2346", "0.1988"],
        ["margin", "1", "0.500", "-0.5", "0.5000"],
    ]
    assert len({len(line) for line in lines}) == 1


@pytest.fixture
def folder(tmp_path):
    rows = [json.dumps({"text": source}) for source in sources(10)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    return save_artefact(tmp_path / "model")


def run(folder, *more: str) -> int:
    data = str(folder.parent / "rows.jsonl")
    flags = ["--source", "text", "--max-new-tokens", "6", "--budgets", "0,0.2,0.5,1", *more]
    return main(["calibrate", "--model", str(folder), "--data", data, *flags])


@pytest.mark.slow
def test_the_command_writes_thresholds_for_every_trained_head(folder, capsys):
    assert run(folder, "--rules", "learned,entropy,random", "--limit", "8") == 0
    kept = Calibration.load(folder / "deferral" / "calibration.json")
    assert [(p.rule, p.seed, p.budget) for p in kept.points] == [
        (rule, seed, budget) for rule, seed in (("learned", 0), ("learned", 1), ("entropy", 0)) for budget in (0.2, 0.5)
    ]
    assert (kept.data, kept.rows) == ("rows:validation", 8) and kept.data_digest and kept.date
    shown = capsys.readouterr().out
    assert shown.startswith(as_table(kept.points)) and "written to" in shown


@pytest.mark.slow
def test_without_rules_the_command_calibrates_what_the_model_has_heads_for(folder):
    assert run(folder, "--limit", "4") == 0
    kept = Calibration.load(folder / "deferral" / "calibration.json")
    assert list(dict.fromkeys(point.rule for point in kept.points)) == [
        "learned", "regret", "maxprob", "entropy", "margin", "first-k", "foresight",
    ]  # fmt: skip
    assert run(folder, "--rules", "router") == 2, "what is asked for by name must be there"


def test_the_command_refuses_a_rule_without_a_head(folder, capsys):
    save_artefact(folder, rules=("regret",))
    assert run(folder, "--rules", "learned") == 2
    said = "error: rule 'learned' has no trained head in this model; leave it out of --rules\n"
    assert capsys.readouterr().err.endswith(said)


def kept(folder) -> dict[tuple[str, int, float], float]:
    return {p.key: p.threshold for p in Calibration.load(folder / "deferral" / "calibration.json").points}


@pytest.mark.slow
def test_other_thresholds_are_kept(folder, capsys):
    assert run(folder, "--rules", "entropy") == 0
    before = kept(folder)
    assert run(folder, "--rules", "learned", "--budgets", "0.5", "--seeds", "1") == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("calibration.json, beside 2 other thresholds")
    after = kept(folder)
    assert set(after) == {("entropy", 0, 0.2), ("entropy", 0, 0.5), ("learned", 0, 0.5)}
    assert before.items() < after.items()
    assert run(folder, "--rules", "entropy", "--budgets", "0.1,0.2") == 0
    assert set(kept(folder)) == {*after, ("entropy", 0, 0.1)}


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--rules", "random,every-k"], ["--budgets", "0,1"]])
def test_what_needs_no_threshold_leaves_those_that_are_there(folder, capsys, more):
    assert run(folder, "--rules", "entropy") == 0
    before = kept(folder)
    assert run(folder, *more) == 2
    assert "error: nothing to calibrate: random, every-k and the budgets 0 and 1 need no" in capsys.readouterr().err
    assert kept(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "name"), [(["--limit", "4"], "rows 10, not 4"), (["--max-new-tokens", "5"], "max_new_tokens 6, not 5")]
)
def test_thresholds_of_other_rows_are_not_mixed(folder, capsys, monkeypatch, more, name):
    assert run(folder, "--rules", "entropy") == 0
    before = kept(folder)
    with monkeypatch.context() as patch:
        patch.setattr("wheels.decoding.commands.calibrate.decode", lambda *_, **__: pytest.fail("the work began"))
        assert run(folder, "--rules", "margin", *more) == 2
    said = capsys.readouterr().err
    assert f"calibration.json holds thresholds that were measured with {name}; calibrate all of its rules" in said
    assert kept(folder) == before
    assert run(folder, "--rules", "entropy,margin", *more) == 0, "all are measured anew"
    assert set(before) < set(kept(folder))


@pytest.mark.slow
def test_a_run_that_was_cut_short_goes_on_behind_the_last_rule(folder, monkeypatch):
    assert run(folder, "--rules", "entropy,margin,learned") == 0
    whole = kept(folder)
    (folder / "deferral" / "calibration.json").unlink()
    once, begun = calibrating.calibrate, []

    def cut(pair, sources, rule, *more):
        begun.append(rule.name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return once(pair, sources, rule, *more)

    monkeypatch.setattr(calibrating, "calibrate", cut)
    assert run(folder, "--rules", "entropy,margin,learned") == 130
    assert run(folder, "--rules", "entropy,margin,learned") == 0
    assert begun[:3] == ["entropy", "margin", "margin"] and set(begun[3:]) == {"learned"}
    assert kept(folder) == whole
    assert not (folder / "deferral" / ".calibrating").exists()


def test_one_at_a_time(folder, capsys):
    from wheels.runs import LOCK, locked

    with locked(folder / LOCK, folder):
        assert run(folder, "--rules", "entropy") == 2
    assert capsys.readouterr().err == f"error: {folder} is held by another process; wait until it ends, or stop it\n"
    assert kept(folder) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "missing"),
    [
        (["--rule", "entropy", "--teacher-budget", "0.01"], "calibrated from"),
        (["--rule", "margin", "--teacher-budget", "0.3"], "not calibrated"),
        (["--rule", "learned", "--seed", "1", "--teacher-budget", "0.2"], "not calibrated"),
        (["--rule", "margin", "--budget-mode", "online", "--teacher-budget", "0.3"], "not calibrated"),
    ],
)
def test_the_command_in_an_error_runs_as_it_is_printed(folder, capsys, tmp_path, monkeypatch, more, missing):
    assert run(folder, "--rules", "entropy", "--limit", "8") == 0
    generate = ["generate", "--model", str(folder), "a b c", "--max-new-tokens", "6", *more]
    monkeypatch.chdir(tmp_path)  # whatever the folder
    capsys.readouterr()
    assert main(generate) == 2
    said = capsys.readouterr().err
    assert missing in said
    command = shlex.split(said.split("`")[1])
    assert command[:2] == ["wheels", "calibrate"] and main(command[1:]) == 0
    assert main(generate) == 0


def test_rows_that_do_not_fit_are_left_out_on_request(folder, capsys, tmp_path, caplog):
    rows = ["source,target", "a b c,x", ",x", '"' + "a " * 80 + '",x', "d e,"]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    flags = ["calibrate", "--model", str(folder), "--data", str(tmp_path / "rows.csv"), "--rules", "entropy"]
    flags += ["--budgets", "0.5", "--max-new-tokens", "4"]
    assert main(flags) == 2
    assert "rows.csv:3: 'source' is empty" in capsys.readouterr().err
    with caplog.at_level("WARNING", logger="wheels"):
        assert main([*flags, "--bad-rows", "skip"]) == 0
    assert (
        "1 of 4 rows left out: 1 as " in caplog.text and "1 of 3 rows left out: longer than the models" in caplog.text
    )
    assert '"rows": 2' in (folder / "deferral" / "calibration.json").read_text()
