"""`student.generate(custom_generate=wheels.hf_generate)` against the models' own `generate`, and against the engine."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation import (
    GenerateDecoderOnlyOutput,
    GenerateEncoderDecoderOutput,
    GenerationConfig,
    MaxLengthCriteria,
)

import wheels
from tests.decoding.tiny import FAMILIES, make_model, make_pair, save_artefact, write
from tests.envs.tiny import EOS, PAD, SOURCES, tokenizer_of
from tests.marks import spread
from wheels.decoding.hf import pair as generate_pair
from wheels.decoding.hf.batch import _most_tokens
from wheels.decoding.methods.calibrated import calibrated
from wheels.decoding.methods.method import bild, deferral, prompt_lookup, speculative
from wheels.decoding.methods.rules import RULES
from wheels.errors import WheelsError
from wheels.models.artefact import Artefact
from wheels.models.loading import load_model
from wheels.models.pair import Pair
from wheels.policy.calibration import Calibration, Point

TEXTS = [*SOURCES, "k k k j", "b a d c f e h g", "i", "g f e d c b a"]
LIMIT = 12
PROCESSED = {
    "repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 5, "bad_words_ids": [[7], [8, 9]],
    "eos_token_id": [EOS, 4, 10],
}  # fmt: skip


@pytest.fixture(params=FAMILIES)
def pair(request) -> Pair:
    return make_pair(request.param)


def batch_of(pair: Pair, texts: list[str]) -> dict[str, torch.Tensor]:
    """Return a padded batch: prompts on their left, sources on their right."""
    rows = pair.encode(texts)
    width, left = max(map(len, rows)), not pair.is_seq2seq
    pads = [[PAD] * (width - len(row)) for row in rows]
    ids = [[*pad, *row] if left else [*row, *pad] for row, pad in zip(rows, pads, strict=True)]
    mask = [
        [0] * len(p) + [1] * len(r) if left else [1] * len(r) + [0] * len(p) for r, p in zip(rows, pads, strict=True)
    ]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def ours(pair: Pair, texts: list[str] = TEXTS, **settings):
    """Return what the hook writes; `generate` is called as a user calls it."""
    given = {"max_new_tokens": LIMIT, "do_sample": False, "teacher": pair.teacher, **settings}
    return pair.student.generate(**batch_of(pair, texts), custom_generate=wheels.hf_generate, **given)


def own(pair: Pair, model: str, texts: list[str] = TEXTS, **settings) -> torch.Tensor:
    """Return what transformers itself writes with one of the models."""
    given = {"max_new_tokens": LIMIT, "do_sample": False, **settings}
    return getattr(pair, model).generate(**batch_of(pair, texts), **given)


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first, second)


@pytest.mark.parametrize("settings", [{}, PROCESSED], ids=["plain", "processed"])
@pytest.mark.parametrize(("budget", "model"), [(0.0, "student"), (1.0, "teacher")])
def test_the_ends_of_the_budget_are_the_models_own_generate(pair, budget, model, settings):
    expected = own(pair, model, **settings)
    assert same(ours(pair, teacher_budget=budget, **settings), expected)
    assert len({tuple(row) for row in expected.tolist()}) >= 6, "the models say one thing whatever they read"
    if settings:
        assert not same(own(pair, model), expected), "the settings change nothing, so nothing is tested"


@pytest.mark.parametrize(
    ("method", "settings"),
    spread([speculative(1), speculative(5), prompt_lookup(3), bild(0.5, rollback=0.0)], [{}, PROCESSED]),
    ids=lambda given: getattr(given, "name", "processed" if given else "plain"),
)
def test_decoding_that_verifies_every_token_is_the_teachers_own_generate(pair, method, settings):
    assert same(ours(pair, method=method, **settings), own(pair, "teacher", **settings))


@pytest.mark.slow
def test_deferral_is_the_engines(pair):
    threshold = 1e-4 if pair.student.config.model_type == "t5" else 0.4
    rule = RULES["maxprob"].at(threshold)
    traces = write(pair, TEXTS, rule, budget=None, max_new_tokens=LIMIT)
    written = ours(pair, rule="maxprob", threshold=threshold, return_dict_in_generate=True)
    assert {"student", "teacher"} == {author for trace in traces for author in trace.authors}
    start = written.sequences.shape[1] - max(trace.tokens for trace in traces)
    for trace, tokens, teacher in zip(traces, written.sequences, written.by_teacher, strict=True):
        end = start + trace.tokens
        assert tuple(tokens[start:end].tolist()) == trace.token_ids and set(tokens[end:].tolist()) <= {PAD}
        assert teacher[start:end].tolist() == [author == "teacher" for author in trace.authors]
        assert not teacher[:start].any() and not teacher[end:].any()
    assert written.teacher_passes.tolist() == [trace.teacher_passes for trace in traces]
    assert written.student_passes.tolist() == [trace.student_passes for trace in traces]
    kind = GenerateEncoderDecoderOutput if pair.is_seq2seq else GenerateDecoderOnlyOutput
    assert isinstance(written, kind) and dict(written)["sequences"] is written.sequences
    for same_rule in (rule, deferral(rule)):
        named = "method" if same_rule is not rule else "rule"
        assert same(ours(pair, **{named: same_rule}), written.sequences)


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_adaptive_drafts_need_no_end_token(family):
    pair, method = make_pair(family), speculative(3, adaptive=True)
    assert same(ours(pair, method=method), own(pair, "teacher"))
    for model in (pair.student, pair.teacher):
        model.generation_config.eos_token_id = model.config.eos_token_id = None
    assert same(ours(pair, method=method), own(pair, "teacher"))


def test_strict_spends_as_the_budget_grows(pair):
    settings = {"rule": RULES["random"].at(-1.0), "budget_mode": "strict", "min_new_tokens": LIMIT}
    written = ours(pair, teacher_budget=0.5, return_dict_in_generate=True, **settings)
    assert written.by_teacher[:, -LIMIT:].tolist() == [[False, True] * (LIMIT // 2)] * len(TEXTS)


def test_the_criteria_say_how_long_a_text_may_grow_and_the_settings_only_without_them():
    of = [MaxLengthCriteria(9), MaxLengthCriteria(7)]
    settings = GenerationConfig(max_length=5)
    assert _most_tokens(StoppingCriteriaList(of), settings) == 7
    assert _most_tokens(StoppingCriteriaList(), settings) == 5
    with pytest.raises(WheelsError, match="nothing says how long an output may grow; give max_new_tokens="):
        _most_tokens(StoppingCriteriaList(), GenerationConfig(max_length=None))


@pytest.mark.parametrize("limit", [{"max_new_tokens": 1}, {"max_new_tokens": 3}, {"max_length": 14}])
def test_the_length_limit_is_generates(pair, limit):
    settings = {"max_new_tokens": None, **limit}
    for budget, model in ((0.0, "student"), (1.0, "teacher")):
        assert same(ours(pair, teacher_budget=budget, **settings), own(pair, model, **settings))


def test_a_batch_without_a_mask_is_read_as_generate_reads_it(pair):
    ids = batch_of(pair, ["a b c", "k j i"])["input_ids"]
    settings = {"max_new_tokens": 5, "do_sample": False}
    expected = pair.student.generate(ids, **settings)
    assert same(
        pair.student.generate(
            ids, custom_generate=wheels.hf_generate, teacher=pair.teacher, teacher_budget=0, **settings
        ),
        expected,
    )


class Ends(StoppingCriteria):
    """Ends a row at a token, at a length of its own, padding and prompt included."""

    def __init__(self, token: int, length_B: torch.Tensor) -> None:
        self.token, self.length_B = token, length_B

    def __call__(self, input_ids, scores, **kwargs):
        return (input_ids[:, -1] == self.token) | (input_ids.shape[1] >= self.length_B)


def test_stopping_criteria_end_each_row_by_itself(pair):
    width = 1 if pair.is_seq2seq else batch_of(pair, TEXTS)["input_ids"].shape[1]
    length_B = width + 2 + torch.arange(len(TEXTS))
    settings = {"stopping_criteria": StoppingCriteriaList([Ends(9, length_B)])}
    expected = own(pair, "teacher", **settings)
    assert not same(own(pair, "teacher"), expected)
    assert same(ours(pair, teacher_budget=1.0, **settings), expected)
    assert same(ours(pair, method=speculative(4), **settings), expected)
    assert same(ours(pair, teacher_budget=0, **settings), own(pair, "student", **settings))


def test_processors_know_the_row_of_the_batch(pair):
    settings = {"prefix_allowed_tokens_fn": lambda row, ids: [3 + row % 11, 4 + (row + len(ids)) % 10, EOS]}
    expected = own(pair, "teacher", **settings)
    assert same(ours(pair, teacher_budget=1.0, **settings), expected)
    assert same(ours(pair, method=speculative(4), **settings), expected)


@pytest.mark.parametrize("family", ["t5", "marian", "bart"])
def test_processors_know_the_source(family):
    pair, settings = make_pair(family), {"encoder_no_repeat_ngram_size": 1, "encoder_repetition_penalty": 2.0}
    assert not same(own(pair, "teacher", **settings), own(pair, "teacher"))
    assert same(ours(pair, method=speculative(4), **settings), own(pair, "teacher", **settings))


@pytest.mark.parametrize("family", ["t5", "marian", "bart"])
def test_a_decoder_may_begin_with_several_tokens(family):
    pair = make_pair(family)
    start = torch.tensor([[pair.start_ids[0], 6, 4]] * len(TEXTS))
    for budget, model in ((0.0, "student"), (1.0, "teacher")):
        expected = own(pair, model, decoder_input_ids=start)
        assert same(ours(pair, teacher_budget=budget, decoder_input_ids=start), expected)
    start = torch.arange(3, 3 + len(TEXTS))[:, None]
    with pytest.raises(WheelsError, match="decoder_input_ids differ from row to row"):
        ours(pair, teacher_budget=0, decoder_input_ids=start)


@pytest.mark.slow
def test_one_seed_one_output(pair):
    def drawn(seed: int, **settings) -> torch.Tensor:
        torch.manual_seed(seed)
        warped = {"do_sample": True, "temperature": 1.7, "top_k": 8, "top_p": 0.95}
        return ours(pair, rule="random", teacher_budget=0.5, **warped, **settings)

    assert same(drawn(1), drawn(1)) and not same(drawn(1), drawn(2))
    several = drawn(3, num_return_sequences=3)
    assert len(several) == 3 * len(TEXTS)
    assert any(len({tuple(row) for row in rows.tolist()}) > 1 for rows in several.split(3)), "rows share their noise"
    prompts = batch_of(pair, TEXTS)["input_ids"]
    if not pair.is_seq2seq:
        assert torch.equal(several[:, : prompts.shape[1]], prompts.repeat_interleave(3, 0))


@pytest.mark.parametrize(("budget", "model"), [(0.0, "student"), (1.0, "teacher")])
def test_several_outputs_stand_beside_each_other_as_generate_has_them(pair, budget, model):
    settings = {"do_sample": True, "top_k": 1, "num_return_sequences": 2}
    assert same(ours(pair, teacher_budget=budget, **settings), own(pair, model, **settings))


@torch.no_grad()
def law_of_first_token(model, ids: torch.Tensor, **warpers: float) -> torch.Tensor:
    """Return the law that `generate` itself draws the first token from."""
    scores = model.generate(
        ids, max_new_tokens=1, do_sample=True, output_scores=True, return_dict_in_generate=True, **warpers
    ).scores[0]
    return scores[0].double().softmax(-1)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "llama"])
@pytest.mark.parametrize("how", [{"teacher_budget": 1.0}, {"method": speculative(3)}], ids=["budget 1", "speculative"])
def test_the_first_token_is_drawn_from_the_teachers_processed_law(family, how):
    """Chi-square at one seed; the student's law, and the teacher's without the settings of the call, are refused."""
    q, p = make_model(family, 16, 5), make_model(family, 24, 17)
    pair, draws = Pair.of(q, p, tokenizer_of(ends_source=family == "t5")), 4000
    ids = torch.tensor(pair.encode(["a b c"]))
    warpers = {"temperature": 9.0, "top_k": 9, "repetition_penalty": 1.6}
    torch.manual_seed(5)
    written = pair.student.generate(
        ids,
        custom_generate=wheels.hf_generate,
        teacher=p,
        max_new_tokens=2,
        do_sample=True,
        num_return_sequences=draws,
        **warpers,
        **how,
    )
    first = written[:, 1 if pair.is_seq2seq else ids.shape[1]]
    count_V = torch.bincount(first, minlength=14).double()

    def refused_at(law_V: torch.Tensor) -> float:
        possible_V = law_V > 0
        if count_V[~possible_V].any():
            return 0.0
        return float(chisquare(count_V[possible_V].numpy(), draws * (law_V / law_V.sum())[possible_V].numpy()).pvalue)

    assert refused_at(law_of_first_token(p, ids, **warpers)) > 0.01
    assert refused_at(law_of_first_token(q, ids, **warpers)) < 1e-6
    assert refused_at(law_of_first_token(p, ids, top_k=0)) < 1e-6


def test_a_trained_students_folder_gives_rule_and_threshold(tmp_path):
    folder = save_artefact(tmp_path / "student")
    Calibration([Point("learned", 0, 0.4, -0.15, 0.4), Point("maxprob", 0, 0.4, 1e-4, 0.4)]).save(
        folder / "deferral" / "calibration.json"
    )
    artefact = Artefact.load(folder)
    student = load_model(folder)
    for rule in ("learned", "maxprob"):
        traces = write(artefact.pair, TEXTS, calibrated(artefact, rule, 0.4), budget=0.4, max_new_tokens=LIMIT)
        settings = {"teacher_budget": 0.4} if rule == "learned" else {"teacher_budget": 0.4, "rule": rule}
        written = student.generate(
            **batch_of(artefact.pair, TEXTS), custom_generate=wheels.hf_generate, teacher=folder / "teacher",
            max_new_tokens=LIMIT, do_sample=False, return_dict_in_generate=True, **settings,
        )  # fmt: skip
        assert [row.sum() for row in written.by_teacher] == [trace.teacher_tokens for trace in traces]
        assert 0 < sum(trace.teacher_tokens for trace in traces) < sum(trace.tokens for trace in traces)
        assert [tuple(row[1 : 1 + t.tokens].tolist()) for row, t in zip(written.sequences, traces, strict=True)] == [
            trace.token_ids for trace in traces
        ]
    with pytest.raises(WheelsError, match=r"no threshold is known for budget 0.9; .*, or give threshold=\.\.\."):
        ours(Pair.of(student, artefact.pair.teacher, artefact.pair.tokenizer), teacher_budget=0.9)
    (folder / "deferral" / "config.json").write_text('{"format": 1}')
    with pytest.raises(WheelsError, match=r"deferral/config\.json: lacks 'head'; it is damaged"):
        ours(Pair.of(student, artefact.pair.teacher, artefact.pair.tokenizer), teacher_budget=0.4)


def test_a_teachers_folder_is_loaded_once(tmp_path, monkeypatch):
    pair, loaded = make_pair("t5"), []
    student, teacher = pair.student.float(), pair.teacher.float()
    pair.save_teacher(tmp_path)
    right = generate_pair.load_model
    monkeypatch.setattr(
        generate_pair, "load_model", lambda *args, **kwargs: loaded.append(args) or right(*args, **kwargs)
    )
    float_pair = Pair.of(student, teacher, pair.tokenizer)
    expected = own(float_pair, "teacher")
    for _ in range(2):
        assert same(ours(float_pair, teacher=tmp_path, teacher_budget=1), expected)
    assert len(loaded) == 1


@pytest.mark.slow
def test_the_name_brings_torch_only_when_it_is_asked_for():
    code = (
        "import sys, wheels; before = 'torch' in sys.modules; wheels.hf_generate; print(before, 'torch' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="module 'wheels' has no attribute 'decoed'"):
        _ = wheels.decoed
