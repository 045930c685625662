"""The engine against transformers' own `generate`, against itself in other company, and against hand counts."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare

from tests.decoding.tiny import FAMILIES, at_positions, make_model, make_pair, with_ends, write
from tests.envs.tiny import EOS, PAD, SOURCES, tokenizer_of
from tests.marks import slow, spread
from wheels.decoding import engine
from wheels.decoding.methods.rules import RULES
from wheels.decoding.models.runner import Runner
from wheels.decoding.sampling import Sampling
from wheels.decoding.scheduler import Schedule
from wheels.decoding.step import Step
from wheels.decoding.trace import Trace
from wheels.errors import WheelsError
from wheels.models.pair import Pair

RANDOM = RULES["random"]
TEXTS = [*SOURCES, "k k k j", "b a d c f e h g j i", "i", "g f e d c b a", "j a", "a a b b"]
LIMIT = 12


@dataclass(frozen=True)
class Every:
    """A rule for tests: calls at every state whose position divides by `period`."""

    period: int = 2
    name: str = "every"
    needs_teacher: bool = False

    def __call__(self, step: Step) -> torch.Tensor:
        return step.position_B % self.period == 0


def own_generate(pair: Pair, model_name: str, sources: list[str], limit: int = LIMIT) -> list[tuple[int, ...]]:
    """Return what transformers itself writes with one of the models, in one padded batch."""
    model, rows = getattr(pair, model_name), pair.encode(sources)
    width = max(map(len, rows))
    left = not pair.is_seq2seq
    pads = [[pair.pad_id] * (width - len(row)) for row in rows]
    ids = torch.tensor([[*pad, *row] if left else [*row, *pad] for row, pad in zip(rows, pads, strict=True)])
    mask = torch.tensor([[0] * len(p) + [1] * len(r) if left else [1] * len(r) + [0] * len(p)
                         for r, p in zip(rows, pads, strict=True)])  # fmt: skip
    written = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=limit, do_sample=False, pad_token_id=pair.pad_id
    )
    return [cut(row, pair.eos_ids) for row in written[:, 1 if pair.is_seq2seq else width :].tolist()]


def cut(tokens: list[int], ends: tuple[int, ...]) -> tuple[int, ...]:
    """Return the tokens with the first that ends the text as the last."""
    return tuple(tokens[: next((place for place, token in enumerate(tokens, 1) if token in ends), len(tokens))])


@pytest.fixture(params=FAMILIES)
def pair(request) -> Pair:
    return make_pair(request.param)


@pytest.mark.parametrize(("budget", "model"), [(0.0, "student"), (1.0, "teacher")])
@pytest.mark.parametrize(
    ("rule", "ends"),
    [("random", [EOS, 7, 9]), ("foresight", EOS), *slow(("random", EOS), ("foresight", [EOS, 7, 9]))],
    ids=lambda given: {str: given, int: "one end", list: "several ends"}[type(given)],
)
def test_the_ends_of_the_budget_are_the_models_own_generate(pair, budget, model, rule, ends):
    with_ends(pair, ends)
    traces = write(pair, TEXTS, RULES[rule].at(-1.0), budget=budget, max_new_tokens=LIMIT)
    expected = own_generate(pair, model, TEXTS)
    assert [trace.token_ids for trace in traces] == expected
    assert {author for trace in traces for author in trace.authors} == {model}
    whole = pair.tokenizer.batch_decode([trace.token_ids for trace in traces], skip_special_tokens=True)
    assert [trace.text for trace in traces] == whole
    assert [trace.finished for trace in traces] == [tokens[-1] in pair.eos_ids for tokens in expected]
    assert all(trace.pieces[-1] == "" for trace in traces if trace.token_ids[-1] == EOS), "an end has no text"
    assert len(set(expected)) >= 8, "the models say one thing whatever they read: nothing is tested"


@pytest.mark.parametrize("limit", [1, 3, 20])
def test_the_length_limit_cuts_as_generate_does(pair, limit):
    traces = write(pair, TEXTS, RANDOM, budget=0.0, max_new_tokens=limit)
    assert [trace.token_ids for trace in traces] == own_generate(pair, "student", TEXTS, limit)
    assert all(trace.finished or trace.tokens == limit for trace in traces)


def test_marian_never_writes_its_padding_and_is_made_to_end():
    pair = make_pair("marian")
    pair.student.final_logits_bias[0, PAD] = 1e3
    bound = write(pair, TEXTS, RANDOM, budget=0.0, max_new_tokens=LIMIT)
    assert [trace.token_ids for trace in bound] == own_generate(pair, "student", TEXTS)
    assert all(trace.token_ids[-1] == EOS for trace in bound) and any(trace.tokens == LIMIT for trace in bound)
    pair.student.generation_config.bad_words_ids = pair.student.generation_config.forced_eos_token_id = None
    free = write(pair, TEXTS, RANDOM, budget=0.0, max_new_tokens=LIMIT)
    assert all(set(trace.token_ids) == {PAD} for trace in free)


def test_common_positions_for_all_rows_would_be_seen(pair, monkeypatch):
    """The negative control of the identities above."""
    expected = own_generate(pair, "teacher", TEXTS)
    init = Runner.__init__

    def tampered(self: Runner, *args, **settings) -> None:
        init(self, *args, **{**settings, "fast": False})
        right = self.library.positions
        self.library.positions = lambda inputs: right(at_positions(inputs, torch.zeros_like(inputs.positions_RK)))

    monkeypatch.setattr(Runner, "__init__", tampered)
    traces = write(pair, TEXTS, RANDOM, budget=1.0, max_new_tokens=LIMIT)
    assert [trace.token_ids for trace in traces] != expected


def outcome(traces: list[Trace]) -> list[tuple]:
    return [
        (t.token_ids, t.authors, t.teacher_passes, t.teacher_positions, t.prompt_positions, t.finished, t.text)
        for t in traces
    ]


@pytest.mark.parametrize(
    ("sampling", "mode"), spread([Sampling(), Sampling(1.3, top_k=9, top_p=0.95)], ["average", "strict"])
)
def test_company_changes_nothing(pair, sampling, mode):
    texts = TEXTS[:8]
    budgets = [0.0, 0.5, 1.0, *([0.3, 0.2, 0.6, 0.5, 0.9] if mode == "strict" else [0.5] * 5)]

    def run(size: int) -> list[tuple]:
        request = {"budget": budgets, "mode": mode, "max_new_tokens": LIMIT, "sampling": sampling, "seed": 4}
        return outcome(write(pair, texts, RANDOM.at(0.5), batch_size=size, **request))

    together = run(8)
    assert together == run(1) == run(3)
    assert {"student", "teacher"} == {author for row in together for author in row[1]}


def test_a_row_that_never_asks_costs_nothing_in_company_that_does():
    pair = make_pair("t5")
    traces = write(pair, TEXTS[:3], RULES["foresight"].at(0.5), budget=[0.0, 0.5, 1.0], max_new_tokens=LIMIT)
    assert [trace.teacher_passes for trace in traces] == [0, traces[1].tokens, traces[2].tokens]
    assert outcome(traces[1:2]) == outcome(
        write(pair, TEXTS[1:2], RULES["foresight"].at(0.5), budget=0.5, max_new_tokens=LIMIT)
    )


class Counted:
    """Counts the forward passes of the teacher, and the rows in them."""

    def __init__(self, pair: Pair) -> None:
        self.passes, self.rows = 0, 0
        pair.teacher.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        # The tokens may stand in one line; the mask has a plane for each row.
        mask = kwargs.get("decoder_attention_mask", kwargs.get("attention_mask"))
        self.passes, self.rows = self.passes + 1, self.rows + mask.shape[0]


def test_the_teacher_never_runs_at_budget_0(pair):
    counted = Counted(pair)
    for mode in ("average", "strict"):
        traces = write(pair, TEXTS, RULES["foresight"].at(-1.0), budget=0.0, mode=mode, max_new_tokens=LIMIT)
        assert all(trace.teacher_passes == trace.teacher_positions == trace.prompt_positions == 0 for trace in traces)
    assert counted.passes == 0


@pytest.mark.slow
@pytest.mark.parametrize("budget", [0.5, 1.0])
def test_passes_are_the_teachers_forward_calls(pair, budget):
    counted = Counted(pair)
    traces = write(pair, TEXTS, RANDOM.at(0.5), budget=budget, batch_size=1, max_new_tokens=LIMIT)
    assert counted.passes == sum(trace.teacher_passes for trace in traces) > 0
    alone = counted.passes
    write(pair, TEXTS, RANDOM.at(0.5), budget=budget, batch_size=5, max_new_tokens=LIMIT, schedule=Schedule(group=3))
    assert counted.passes - alone < alone == counted.rows - alone


@pytest.mark.slow
def test_positions_by_hand():
    """Called at 0, 3 and 6 of ten tokens, the teacher reads the start, then three more tokens each time."""
    for family in FAMILIES:
        pair = with_ends(make_pair(family), 99)
        (trace,) = write(pair, ["a b c"], Every(3), budget=0.5, max_new_tokens=8)
        prompt = len(pair.encode(["a b c"])[0])
        assert trace.authors == tuple("teacher" if place % 3 == 0 else "student" for place in range(8))
        assert (trace.teacher_passes, trace.teacher_positions, trace.prompt_positions) == (3, 7, prompt), family
        (trace,) = write(pair, ["a b c"], Every(3), budget=1.0, max_new_tokens=8)
        assert (trace.teacher_passes, trace.teacher_positions, trace.teacher_use) == (8, 8, 1.0)
        (trace,) = write(pair, ["a b c"], RULES["foresight"].at(99.0), budget=0.5, max_new_tokens=8)
        assert (trace.teacher_passes, trace.teacher_positions, trace.teacher_use) == (8, 8, 0.0)


def test_a_call_writes_the_teachers_token_after_the_common_text(pair):
    (trace,) = write(with_ends(pair, 99), ["c a b"], Every(2), budget=0.5, max_new_tokens=LIMIT)
    prefix = list(pair.start_ids) if pair.is_seq2seq else pair.encode(["c a b"])[0]
    for place in range(LIMIT - 1):  # the last one is forced in some families
        model = pair.teacher if trace.authors[place] == "teacher" else pair.student
        text = torch.tensor([[*prefix, *trace.token_ids[:place]]])
        inputs = {"input_ids": torch.tensor(pair.encode(["c a b"])), "decoder_input_ids": text}
        logits_V = model(**(inputs if pair.is_seq2seq else {"input_ids": text})).logits[0, -1]
        logits_V[0] = -torch.inf if model.generation_config.bad_words_ids else logits_V[0]
        forced = model.generation_config.forced_bos_token_id
        expected = forced if forced is not None and place == 0 and pair.is_seq2seq else int(logits_V.argmax())
        assert trace.token_ids[place] == expected


def test_strict_spends_as_the_budget_grows():
    pair = with_ends(make_pair("t5"), 99)
    (trace,) = write(pair, ["a b"], Every(1), budget=0.7, mode="strict", max_new_tokens=10)
    used = [trace.authors[:end].count("teacher") for end in range(1, 11)]
    assert used == [0, 1, 2, 2, 3, 4, 4, 5, 6, 7], "floor(0.7 t), and exactly 7 of 10"
    (trace,) = write(pair, ["a b"], Every(1), budget=0.2, mode="strict", burst=2, max_new_tokens=10)
    assert trace.authors[:3] == ("teacher", "teacher", "student") and trace.teacher_tokens == 4


def test_strict_budget_1_is_the_teacher_whatever_the_rule_says(pair):
    """A budget just below 1 leaves the choice to the rule, and so does no budget at all."""
    request = {"mode": "strict", "max_new_tokens": LIMIT}
    never = RANDOM.at(2.0)
    whole = write(pair, TEXTS, never, budget=1.0, **request)
    assert [trace.token_ids for trace in whole] == own_generate(pair, "teacher", TEXTS)
    for traces in (write(pair, TEXTS, never, budget=0.99, **request), write(pair, TEXTS, never, max_new_tokens=LIMIT)):
        assert [trace.token_ids for trace in traces] == own_generate(pair, "student", TEXTS)
    (mixed, most) = write(with_ends(pair, 99), TEXTS[:2], Every(2), budget=[1.0, 0.99], burst=1, **request)
    assert set(mixed.authors) == {"teacher"} and most.authors[:4] == ("teacher", "student") * 2
    (free,) = write(pair, TEXTS[:1], Every(2), max_new_tokens=LIMIT)
    assert free.authors[:4] == ("teacher", "student") * 2


def test_one_seed_one_output(pair):
    request = {"budget": 0.5, "max_new_tokens": LIMIT, "sampling": Sampling(1.0)}
    first, again, other = (write(pair, TEXTS, RANDOM.at(0.5), seed=seed, **request) for seed in (1, 1, 2))
    assert outcome(first) == outcome(again) != outcome(other)


def law_pair() -> Pair:
    """A pair whose laws of the first token are far apart, so that a wrong mixture is seen."""
    return Pair.of(make_model("t5", 16, 5), make_model("t5", 16, 17), tokenizer_of(ends_source=True))


@torch.no_grad()
def first_laws(pair: Pair, source: str, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the laws q and p of the first token."""
    inputs = {
        "input_ids": torch.tensor(pair.encode([source])),
        "decoder_input_ids": torch.tensor([[pair.start_ids[0]]]),
    }
    laws = [(model(**inputs).logits[0, -1] / temperature).softmax(-1) for model in (pair.student, pair.teacher)]
    return laws[0], laws[1]


def p_value(count_V: torch.Tensor, law_V: torch.Tensor) -> float:
    """Return how likely so large a deviation is by chance; tokens expected fewer than 5 times are put together."""
    expected_V = law_V.double() / law_V.double().sum() * count_V.sum()
    rare_V = expected_V < 5
    observed = torch.cat([count_V[~rare_V], count_V[rare_V].sum()[None]]).numpy()
    expected = torch.cat([expected_V[~rare_V], expected_V[rare_V].sum()[None]]).numpy()
    keep = expected > 0
    return float(chisquare(observed[keep], expected[keep] * observed[keep].sum() / expected[keep].sum()).pvalue)


@pytest.mark.slow
def test_the_law_of_a_sampled_token_is_the_mixture():
    """With calls drawn at rate g the law is `(1 - g) q + g p` (chi-square); the wrong mixtures are refused."""
    pair, rate, temperature = law_pair(), 0.3, 20.0
    q_V, p_V = first_laws(pair, "a b c", temperature)
    traces = write(
        pair, ["a b c"] * 4000, RANDOM.at(1 - rate), budget=rate, max_new_tokens=1, batch_size=4000, seed=3,
        sampling=Sampling(temperature),
    )  # fmt: skip
    count_V = torch.bincount(torch.tensor([trace.token_ids[0] for trace in traces]), minlength=len(q_V)).double()
    calls = sum(trace.teacher_tokens for trace in traces)
    assert abs(calls / 4000 - rate) < 4 * (rate * (1 - rate) / 4000) ** 0.5
    assert p_value(count_V, (1 - rate) * q_V + rate * p_V) > 0.01
    for wrong in (0.0, 0.2, 0.4, 1.0):
        assert p_value(count_V, (1 - wrong) * q_V + wrong * p_V) < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 20}, r"teacher_budget must be in \[0, 1\], got 20; did you mean 0.2\?"),
        ({"budget": float("nan")}, r"teacher_budget must be in \[0, 1\], got nan"),
        ({"budget": [0.1, -0.1]}, r"teacher_budget must be in \[0, 1\], got -0.1"),
        ({"budget": [0.1]}, "budget must be one number or one for each of the 2 inputs, got 1"),
        (
            {"mode": "stric"},
            "budget_mode must be one of average, online, strict, dollars, got 'stric'; did you mean 'strict'",
        ),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"burst": -1}, "burst must be at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_a_wrong_request_is_refused(change, message):
    with pytest.raises(WheelsError, match=message):
        write(make_pair("t5"), ["a", "b"], RANDOM, **{"budget": 0.2, **change})


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_a_source_that_cannot_be_read_is_refused(family):
    pair = make_pair(family)
    with pytest.raises(WheelsError, match="input 2 is empty; give it some text"):
        write(pair, ["a", " \n"], RANDOM, budget=0.2)
    said = "input 2 has 6[45] tokens, and the models read at most 64"
    with pytest.raises(WheelsError, match=said + (", output included" if family == "llama" else "; shorten")):
        write(pair, ["a", "b " * 64], RANDOM, budget=0.2)
    with pytest.raises(WheelsError, match="input 2 is empty"):
        write(pair, ["b " * 64, " "], RANDOM, budget=0.2)  # before any is encoded
    (trace,) = write(pair, ["b " * 62], RANDOM, budget=0.0, max_new_tokens=LIMIT)
    assert trace.tokens <= (2 if family == "llama" else LIMIT)


def test_nothing_to_write_is_nothing_written():
    assert write(make_pair("t5"), [], RANDOM.at(0.8), budget=0.2) == []


def test_progress_tells_what_has_become_ready(pair):
    told: list[int] = []
    progress: Callable[[int], None] = told.append
    write(pair, TEXTS, RANDOM, budget=0.0, batch_size=5, max_new_tokens=2, progress=progress)
    assert told == [1] * len(TEXTS)


@pytest.mark.parametrize("budget", [0.0, 0.5])
def test_the_rows_of_a_pass_share_its_seconds(monkeypatch, budget):
    """By a clock that ticks at each look: the engine looks before a pass and after it."""
    ticks = itertools.count()
    monkeypatch.setattr(engine, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    request = {"budget": budget, "max_new_tokens": LIMIT, "batch_size": 5, "schedule": Schedule(group=2)}
    traces = write(make_pair("t5"), TEXTS, Every(3), **request)
    passes = next(ticks) / 2
    assert sum(trace.seconds for trace in traces) == pytest.approx(passes) and passes > len(TEXTS)
    assert all(0 < trace.seconds < passes for trace in traces)
