"""Online mode: use ends at the budget on any data, and is said so by a bound."""

import json
import math
import random
from dataclasses import replace
from functools import cache

import pytest
import torch

import wheels
from tests.decoding.tiny import make_pair, method_of, save_artefact, write
from tests.envs.tiny import WORDS
from tests.marks import slow
from wheels.cli.main import main
from wheels.decoding import engine
from wheels.decoding.commands.calibrate import calibrate
from wheels.decoding.engine import Engine
from wheels.decoding.methods import online
from wheels.decoding.methods.calibrated import calibrated
from wheels.decoding.methods.method import Method, deferral, priced, speculative, verified
from wheels.decoding.methods.online import HIGHEST, LOWEST, RATE, OnlineBudget, OnlineThreshold, threshold_at
from wheels.decoding.methods.rule import Rule
from wheels.decoding.methods.rules import RULES
from wheels.decoding.methods.verify import Speculative
from wheels.decoding.params import DecodeParams
from wheels.decoding.sequences import Sequence, prepare_sequences
from wheels.decoding.step import Step
from wheels.decoding.trace import teacher_use
from wheels.errors import WheelsError
from wheels.models.artefact import Artefact
from wheels.policy.calibration import Calibration

LEVELS = ((0.1, 4.0), (0.3, 1.0), (0.5, 0.5))
LIMIT = 8
LOOSE, CLOSE = 0.05, 0.02
"""What average mode misses a budget by on data that is harder than what it was calibrated on; what online mode may."""


class WrongSign(OnlineThreshold):
    """Calls more where it has called too much."""

    @property
    def level(self) -> float:
        return 2 * self.start - super().level


class NoUpdate(OnlineThreshold):
    """Stays where it was calibrated."""

    @property
    def level(self) -> float:
        return self.start


def uses(threshold: OnlineThreshold, scores: list[float]) -> float:
    return sum(threshold.decide(score) for score in scores) / len(scores)


def streams(draw: random.Random, count: int) -> dict[str, list[float]]:
    """Scores as calibrated (those of LEVELS on the whole), drifting in the middle, far away, and without measure."""
    even = [draw.expovariate(1.0) for _ in range(count)]
    later = [score if place < count // 2 else 3.0 + 2.0 * score for place, score in enumerate(even)]
    return {
        "as calibrated": even,
        "drift in the middle": later,
        "back and forth": [score * (10.0 if place // 100 % 2 else 0.1) for place, score in enumerate(even)],
        "always above": [1e9] * count,
        "always below": [-1e9] * count,
        "infinite": [draw.choice([math.inf, -math.inf]) for _ in range(count)],
        "no number": [math.nan] * count,
    }


@pytest.mark.parametrize(
    ("level", "threshold"), [(0.1, 4.0), (0.2, 2.5), (0.3, 1.0), (0.4, 0.75), (0.0, 5.5), (-0.1, 7.0), (0.9, -0.5)]
)
def test_thresholds_of_levels_by_hand(level, threshold):
    assert threshold_at(LEVELS, level) == pytest.approx(threshold)


def test_the_update_by_hand():
    threshold = OnlineThreshold(0.2, LEVELS)
    assert threshold.decide(2.6) and threshold.level == pytest.approx(0.2 - RATE * 0.8)
    assert not threshold.decide(2.6), "the threshold is 2.5 + 15 * 0.008 = 2.62 by now"
    assert threshold.level == pytest.approx(0.2 - RATE * 0.8 + RATE * 0.2)
    threshold.count(0, -1)
    assert threshold.level == pytest.approx(0.2 - RATE * 0.8), "a token that was taken back"
    assert (OnlineThreshold(0.02, LEVELS).level, OnlineThreshold(0.9, LEVELS).level) == (0.1, 0.5), (
        "the nearest that was calibrated"
    )


@pytest.mark.parametrize(("calls", "score", "called"), [(50, 1e9, True), (105, 1e9, True), (115, 1e9, False)])
def test_between_the_end_of_the_levels_and_the_lowest_the_threshold_still_decides(calls, score, called):
    """Calls without tokens: the level goes from 0.1 down to 0.1 - 0.01 * calls, and from -1 on nothing calls."""
    threshold = OnlineThreshold(0.1, LEVELS, calls=calls)
    assert threshold.level == pytest.approx(0.1 - RATE * calls) and threshold.decide(score) is called


def test_at_the_lowest_level_nothing_calls():
    threshold = OnlineThreshold(0.5, LEVELS, calls=150)
    assert threshold.level == LOWEST and not threshold.decide(math.inf)


def bound(threshold: OnlineThreshold, count: int) -> float:
    """The guarantee: `(reach + RATE) / (RATE * N)`."""
    return (1 + max(threshold.start, 1 - threshold.start) + RATE) / (RATE * count)


@pytest.mark.parametrize("budget", [0.02, 0.2, 0.45, 0.9])
@pytest.mark.parametrize("seed", [0, *slow(1, 2)])
def test_the_bound_holds_at_every_place_of_every_stream(budget, seed):
    for name, scores in streams(random.Random(seed), 4000).items():
        threshold = OnlineThreshold(budget, LEVELS)
        for place, score in enumerate(scores, 1):
            threshold.decide(score)
            assert abs(threshold.calls / place - budget) <= bound(threshold, place) + 1e-9, (name, place)
            assert LOWEST - RATE <= threshold.level <= HIGHEST + RATE, name


@pytest.mark.parametrize("budget", [0.1, 0.4])
def test_the_bound_holds_against_an_adversary_who_knows_the_threshold(budget):
    """It calls for as long as it can, then never."""
    threshold = OnlineThreshold(budget, LEVELS)
    for place in range(1, 4001):
        score = threshold_at(LEVELS, threshold.level) + (1.0 if place < 2000 else -1.0)
        threshold.decide(score)
        assert abs(threshold.calls / place - budget) <= bound(threshold, place) + 1e-9


@pytest.mark.parametrize("budget", [0.15, 0.3])
def test_the_tighter_bound_of_scores_that_lie_within_a_range(budget):
    levels, (lowest, highest), count = ((0.1, 0.9), (0.5, 0.5)), (0.0, 1.0), 3000
    draw = random.Random(5)
    for power in (0.2, 1.0, 6.0):
        threshold = OnlineThreshold(budget, levels)
        for place in range(1, count + 1):
            threshold.decide(draw.random() ** power)
            step = RATE  # the slope of these levels is 1
            assert abs(threshold.calls / place - budget) <= (highest - lowest + step) / (step * place) + 1e-9


@pytest.mark.parametrize("wrong", [WrongSign, NoUpdate])
def test_the_wrong_controllers_break_the_bound(wrong):
    scores = streams(random.Random(0), 4000)["drift in the middle"]
    right, other = OnlineThreshold(0.2, LEVELS), wrong(0.2, LEVELS)
    assert abs(uses(right, scores) - 0.2) < CLOSE
    assert abs(uses(other, scores) - 0.2) > bound(right, len(scores)) + LOOSE


def texts(count: int) -> list[str]:
    draw = random.Random(1)
    return [" ".join(draw.choices(WORDS, k=draw.randint(2, 9))) for _ in range(count)]


@cache
def easy_and_hard() -> tuple[list[str], list[str]]:
    """Texts in two halves by how unsure the student is of its first token, each in an order of chance."""
    sources, scores = texts(600), dict[int, float]()

    def seen(step: Step) -> torch.Tensor:
        score_B = RULES["entropy"].score(step)
        scores.update(zip(step.index_B.tolist(), score_B.tolist(), strict=True))
        return score_B

    write(make_pair("t5"), sources, Rule("seen", seen, 1e9), budget=0.5, max_new_tokens=1, batch_size=100)
    found = {source: scores[place] for place, source in enumerate(sources)}
    ranked = sorted(found, key=found.__getitem__)
    half = len(ranked) // 2
    return sorted(ranked[:half], key=hash_of), sorted(ranked[half:], key=hash_of)


def hash_of(text: str) -> float:
    return random.Random(text).random()


@cache
def easy_rule(name: str = "entropy") -> Rule:
    """A rule that was calibrated on easy texts."""
    points = list(calibrate(make_pair("t5"), easy_and_hard()[0], RULES[name], [0.1, 0.2, 0.3], max_new_tokens=LIMIT))
    calibration = Calibration(points)
    return replace(RULES[name], levels=calibration.levels(name)).at(calibration.threshold(name, 0.2))


def use_of(mode: str, budget: float = 0.2, rule: Rule | Method | None = None, **settings) -> float:
    chosen = easy_rule() if rule is None else rule
    settings = {"batch_size": 16, "max_new_tokens": LIMIT, "budget": budget, "mode": mode} | settings
    return teacher_use(write(make_pair("t5"), easy_and_hard()[1], chosen, **settings))


@pytest.mark.slow
def test_online_keeps_what_average_misses_on_harder_texts():
    assert abs(use_of("average") - 0.2) > LOOSE
    assert abs(use_of("online") - 0.2) < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [WrongSign, NoUpdate])
def test_the_wrong_controllers_miss_the_budget(monkeypatch, wrong):
    monkeypatch.setattr(online, "OnlineThreshold", wrong)
    assert abs(use_of("online") - 0.2) > LOOSE


@pytest.mark.slow
@pytest.mark.parametrize("how", [lambda rule: verified(rule, tolerance=0.5), priced])
def test_tokens_that_are_taken_back_do_not_count(monkeypatch, how):
    method = how(easy_rule())
    assert abs(use_of("online", 0.25, method) - 0.25) < CLOSE
    monkeypatch.setattr(OnlineBudget, "recount", lambda self, rows: None)
    assert abs(use_of("online", 0.25, method) - 0.25) > LOOSE


def engine_of(method: Method, **params) -> Engine:
    pair = make_pair("t5")
    rows = prepare_sequences(pair, easy_and_hard()[1][:60], LIMIT)
    method = method_of(method, [0.0, 0.15, 0.4, 1.0] * 15, "online")
    return Engine(pair, rows, method, DecodeParams(**{"max_new_tokens": LIMIT} | params), batch_size=7)


@pytest.mark.slow
@pytest.mark.parametrize("make", [deferral, lambda rule: verified(rule, tolerance=0.5, draft=3)])
@pytest.mark.parametrize("ends", [False, True])
def test_what_is_counted_is_what_was_written(make, ends):
    """Calls that wait, tokens taken back, full drafts that nobody asked for, texts that are ended from outside."""
    stopping = (lambda index, tokens: len(tokens) >= 2 + index % 5) if ends else None
    engine = engine_of(make(easy_rule()), stopping=stopping)
    rows = list(engine.run())
    assert engine.online is not None and set(engine.online.thresholds) == {0.15, 0.4}
    for budget, threshold in engine.online.thresholds.items():
        own = [row for row in rows if row.budget == budget]
        assert threshold.tokens == sum(len(row.tokens) for row in own) > 0
        assert threshold.calls == sum(sum(row.by_teacher) for row in own) > 0
    for row in rows:
        if row.budget in (0, 1) and make is deferral:
            assert set(row.by_teacher) <= {bool(row.budget)}


def test_a_row_that_was_never_asked_is_counted_whole():
    """Its first draft may be full before the rule says a word."""
    chosen = OnlineBudget(RULES["entropy"], {0.2}, LEVELS)
    chosen.recount([Sequence(0, [5], 8, budget=0.2, tokens=[4, 5, 6], by_teacher=[False, True, False])])
    assert (chosen.thresholds[0.2].calls, chosen.thresholds[0.2].tokens) == (1, 3)


@pytest.mark.slow
def test_deferral_counts_before_the_teacher_has_written(monkeypatch):
    """A call is counted when it is decided: what is settled afterwards changes nothing."""
    changes: list[tuple[int, int]] = []
    count = OnlineThreshold.count
    monkeypatch.setattr(OnlineThreshold, "count", lambda self, *given: changes.append(given) or count(self, *given))
    list(engine_of(deferral(easy_rule())).run())
    assert set(changes) == {(1, 1), (0, 1), (0, 0)}


@pytest.mark.slow
def test_one_seed_one_output_and_the_order_matters():
    def authors(sources, **change):
        settings = {"budget": 0.2, "mode": "online", "max_new_tokens": LIMIT, "batch_size": 5} | change
        traces = write(make_pair("t5"), sources, easy_rule(), **settings)
        return {source: trace.authors for source, trace in zip(sources, traces, strict=True)}

    sources = list(dict.fromkeys(easy_and_hard()[1]))[:60]
    assert authors(sources) == authors(sources)
    assert authors(sources) != authors(sources[::-1])
    assert authors(sources) != authors(sources, batch_size=9)
    assert authors(sources, mode="average") == authors(sources[::-1], mode="average")


@pytest.mark.slow
def test_times_decide_nothing(monkeypatch):
    """How many rows wait for the teacher follows from measured times, but not here: another run would differ."""
    monkeypatch.setattr(engine, "costs_of", lambda *_: pytest.fail("times were measured"))
    use_of("online")
    with pytest.raises(pytest.fail.Exception, match="times were measured"):
        use_of("average")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "foresight"])
def test_other_rules_keep_it_too(name):
    levels = ((0.05, 20.0), (0.3, 0.0)) if name == "foresight" else RULES[name].levels
    rule = replace(RULES[name], levels=levels)
    assert abs(use_of("online", rule=rule) - 0.2) < CLOSE


@pytest.mark.slow
def test_every_k_needs_no_help():
    rule = RULES["every-k"].at(0.8)
    assert use_of("online", rule=rule) == use_of("average", rule=rule)


@pytest.mark.parametrize(
    ("method", "budget", "message"),
    [
        (speculative(3), None, "speculative keeps no budget, so online mode has nothing to do; give"),
        (RULES["entropy"].at(1.0), None, "entropy keeps no budget, so online mode has nothing to do"),
        (RULES["entropy"].at(1.0), 0.2, "'entropy' does not say which thresholds give which use, .* calibrated rule"),
        (
            Method("eager", RULES["random"], Speculative(0.0), 3, adaptive=True), 0.2,
            "eager drafts as its times were measured",
        ),
    ],
)  # fmt: skip
def test_what_has_no_threshold_to_move_is_refused(method, budget, message):
    with pytest.raises(WheelsError, match=message):
        write(make_pair("t5"), ["a b"], method, budget=budget, mode="online")


def test_a_rule_of_another_kind_is_refused():
    class Flat:
        name, needs_teacher = "flat", False

        def __call__(self, step):
            return step.position_B > 1

    with pytest.raises(WheelsError, match="'flat' has no threshold that online mode could move; use budget_mode aver"):
        write(make_pair("t5"), ["a b"], Flat(), budget=0.2, mode="online")
    assert write(make_pair("t5"), ["a b"], Flat(), budget=0.0, mode="online")[0].teacher_use == 0


@pytest.mark.slow
def test_the_ends_of_the_budget_are_one_model_alone():
    for budget in (0.0, 1.0):
        assert use_of("online", budget) == use_of("average", budget) == budget


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that was calibrated on easy texts, by hand; hard texts are there to be scored."""
    place = tmp_path_factory.mktemp("online")
    save_artefact(place / "model")
    for name, rows in zip(("easy", "hard"), easy_and_hard(), strict=True):
        lines = [json.dumps({"source": row, "target": row}) for row in rows]
        (place / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    common = ["--model", str(place / "model"), "--max-new-tokens", str(LIMIT), "--batch-size", "16"]
    assert main(["calibrate", *common, "--data", str(place / "easy.jsonl"), "--split", "test", "--rules", "entropy",
                 "--budgets", "0.1,0.2,0.3"]) in (0, None)  # fmt: skip
    return place


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "kept"), [("average", False), ("online", True)])
def test_a_curve_on_other_data_keeps_its_budgets(folder, mode, kept, monkeypatch):
    output = folder / mode
    assert main(["bench", "curve", "--model", str(folder / "model"), "--data", str(folder / "hard.jsonl"),
                 "--mode", mode, "--rules", "entropy", "--budgets", "0,0.2,0.3,1", "--max-new-tokens", str(LIMIT),
                 "--batch-size", "16", "--resamples", "100", "--output", str(output)]) in (0, None)  # fmt: skip
    found = json.loads((output / "curve.json").read_text())
    assert found["mode"] == mode
    worst = found["adherence"]["entropy"]["worst_abs_error"]
    assert worst < CLOSE if kept else worst > LOOSE
    assert ("and then moved" in (output / "report.html").read_text()) == kept


@pytest.mark.slow
def test_generate_writes_online(folder, capsys):
    command = ["generate", "--model", str(folder / "model"), "--input", str(folder / "hard.jsonl"), "--rule", "entropy",
               "--budget-mode", "online", "--teacher-budget", "0.6", "--max-new-tokens", str(LIMIT)]  # fmt: skip
    assert main(command) in (0, None)
    shown = capsys.readouterr().err
    use = float(shown.split("teacher use ")[1].split()[0])
    assert "(asked 0.6, online)" in shown and abs(use - 0.6) < 0.03, "the calibration ends at 0.3"


def test_a_budget_that_was_not_calibrated_starts_at_the_nearest(folder):
    artefact = Artefact.load(folder / "model")
    rule = calibrated(artefact, "entropy", 0.6, mode="online")
    assert rule.threshold == rule.levels[-1][1] == calibrated(artefact, "entropy", 0.3).threshold
    with pytest.raises(WheelsError, match=r"no threshold is known for budget 0.6"):
        calibrated(artefact, "entropy", 0.6)
    with pytest.raises(WheelsError, match=r"rule 'margin' .* is not calibrated"):
        calibrated(artefact, "margin", 0.2, mode="online")


def test_inside_transformers(folder):
    artefact = Artefact.load(folder / "model")
    batch = artefact.pair.tokenizer(easy_and_hard()[1], return_tensors="pt", padding=True)
    settings = {"teacher": artefact.pair.teacher, "rule": "entropy", "teacher_budget": 0.2, "do_sample": False}

    def use(mode: str) -> float:
        said = artefact.pair.student.generate(
            **batch, custom_generate=wheels.hf_generate, budget_mode=mode, max_new_tokens=LIMIT,
            return_dict_in_generate=True, **settings,
        )  # fmt: skip
        written = (said.sequences[:, 1:] != artefact.pair.pad_id).sum()
        return float(said.by_teacher.sum() / written)

    # One batch of 300 rows: all first tokens are decided before any second one, and so on to the eighth.
    assert abs(use("average") - 0.2) > 2 * LOOSE and abs(use("online") - 0.2) < LOOSE
