"""Who is timed, and what a timer forward pass is, on tiny random pairs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from tests.decoding.tiny import make_pair
from tests.envs.tiny import SOURCES
from wheels.benchmarks.speed import forward_timer
from wheels.benchmarks.speed import forward_timer as bare_module
from wheels.benchmarks.speed.config import RIVALS
from wheels.benchmarks.speed.forward_timer import ForwardTimer, Machine, Shape, on_grid
from wheels.benchmarks.speed.hf_systems import Outcome, Prompts, Workload, until_end
from wheels.benchmarks.speed.records import Timing
from wheels.benchmarks.speed.systems import KNOWN, shapes_of
from wheels.decoding.methods.method import deferral, speculative, verified
from wheels.decoding.methods.rules import RULES
from wheels.decoding.models.cache import cache_argument
from wheels.decoding.models.fast import FastEncoder
from wheels.decoding.models.output import Output
from wheels.decoding.models.runner import Pass, Runner
from wheels.distillation.collate import pad_with_mask
from wheels.models.pair import Pair

RULE = RULES["random"].at(0.7, budget=0.3)
FAMILIES = ("t5", "llama")


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> Pair:
    return make_pair(request.param)


def wish_of(pair: Pair, rule=RULE) -> Workload:
    return Workload(Prompts(pair, SOURCES, 12), 0.3, rule, 3)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 4])
def test_those_that_must_repeat_another_do(pair: Pair, batch_size: int) -> None:
    outcomes = {name: each.run(wish_of(pair), batch_size) for name, each in KNOWN.items() if name not in RIVALS}
    held = [name for name, each in KNOWN.items() if each.same_as is not None]
    assert held == ["hf-assisted", "hf-lookup", "teacher", "student", "speculative", "speculative-adaptive", "lookup"]
    for name in held:
        assert outcomes[name].outputs == outcomes[KNOWN[name].same_as or ""].outputs, name
    assert outcomes["hf-teacher"].outputs != outcomes["hf-student"].outputs
    assert all(each.seconds > 0 and each.passes for each in outcomes.values())
    assert outcomes["deferral"].outputs == outcomes["deferral-lockstep"].outputs


def test_a_difference_is_counted() -> None:
    passes = Counter({Shape("teacher", "decode", 2, 1, 0, 1): 3})
    timed = Timing.of(Outcome([(5, 1), (6, 1), (7,)], 2.0, passes, 3))
    assert timed.differing(timed) == []
    assert timed.differing(Timing.of(Outcome([(5, 1), (6, 7), (8,)], 2.0, passes, 3))) == [1, 2]
    assert (timed.tokens, timed.rate, timed.shapes) == (5, 2.5, passes)


def test_generate_is_counted_pass_by_pass(pair: Pair) -> None:
    outcome = KNOWN["hf-teacher"].run(wish_of(pair), 6)
    decodes = Counter({shape: count for shape, count in outcome.passes.items() if shape.kind == "decode"})
    assert sum(decodes.values()) == max(map(len, outcome.outputs))
    assert {shape.rows for shape in decodes} == {6}
    assert outcome.teacher_tokens == outcome.tokens
    encodes = [shape for shape in outcome.passes if shape.kind == "encode"]
    longest = max(map(len, pair.encode(SOURCES)))
    assert encodes == ([Shape("teacher", "encode", 6, longest, 0, 0)] if pair.is_seq2seq else [])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_assistance_leaves_the_student_as_it_was(family: str) -> None:
    pair = make_pair(family)  # which nobody else has used
    before = pair.student.generation_config.to_dict()
    outcome = KNOWN["hf-assisted"].run(wish_of(pair), 4)
    assert pair.student.generation_config.to_dict() == before
    verified = {shape.width for shape in outcome.passes if shape.model == "teacher" and shape.context}
    assert max(verified) <= 4  # K + 1


def test_rows_are_padded_on_the_side_that_is_asked_for() -> None:
    ids, seen = pad_with_mask([[5, 6, 7], [8]], 0, left=True)
    assert (ids.tolist(), seen.tolist()) == ([[5, 6, 7], [0, 0, 8]], [[1, 1, 1], [0, 0, 1]])
    ids, seen = pad_with_mask([[5, 6, 7], [8]], 0, left=False)
    assert (ids.tolist(), seen.tolist()) == ([[5, 6, 7], [8, 0, 0]], [[1, 1, 1], [1, 0, 0]])


@pytest.mark.parametrize(
    ("tokens", "kept"), [([4, 5, 1, 0, 0], (4, 5, 1)), ([4, 5], (4, 5)), ([1, 1], (1,)), ([3, 9, 1], (3, 9)), ([], ())]
)
def test_tokens_count_up_to_the_first_end(tokens: list[int], kept: tuple[int, ...]) -> None:
    assert until_end(tokens, (1, 9)) == kept


@pytest.mark.parametrize(
    ("method", "heads"),
    [(deferral(RULE), [1, 1, 1]), (speculative(3), [4, 2, 4]), (verified(RULE, tolerance=2.0), [1, 2, 6])],
)
def test_the_scored_positions_follow_from_the_method(method, heads: list[int]) -> None:
    passes = [Pass(2, 9, 0, 18), Pass(2, 2, 9, 4), Pass(2, 6, 40, 12)]
    counts = shapes_of({"teacher": [*passes, Pass(3, 7, 0, 21, "encode")], "student": [Pass(2, 2, 9, 4)]}, method)
    wanted = [Shape("teacher", "decode", 2, each.width, on_grid(each.context), head)
              for each, head in zip(passes, heads, strict=True)]  # fmt: skip
    wanted += [Shape("teacher", "encode", 3, 7, 0, 0), Shape("student", "decode", 2, 2, 32, 1)]
    assert counts == Counter(wanted)


def test_contexts_are_rounded_up() -> None:
    assert [on_grid(context) for context in (0, 1, 32, 33)] == [0, 32, 32, 64]


@pytest.mark.parametrize("context", [0, 5])
def test_a_bare_forward_always_stands_behind_its_own_context(pair: Pair, context: int, monkeypatch) -> None:
    seen, scored = [], []
    body = pair.teacher.get_decoder() if pair.is_seq2seq else pair.teacher.base_model
    before = body.register_forward_pre_hook(
        lambda _, __, named: seen.append(
            (named[cache_argument(type(body))].get_seq_length(), *named["input_ids"].shape)
        ),
        with_kwargs=True,
    )
    after = pair.teacher.get_output_embeddings().register_forward_hook(lambda *call: scored.append(call[2].shape[0]))
    timer = ForwardTimer(pair, 4)
    assert timer.seconds(Shape("teacher", "decode", 3, 2, context, 1)) > 0
    timer.seconds(Shape("teacher", "decode", 3, 4, context, 4))
    before.remove(), after.remove()
    timed = [each for each in seen if each[2] in (2, 4)]
    assert set(timed) == {(context, 3, 2), (context, 3, 4)} and len(timed) >= 2 * (1 + bare_module.LEAST)
    assert set(scored) >= {3 * 1, 3 * 4}


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("context", [0, 5])
def test_a_bare_fast_forward_is_one_pass_behind_its_context(family: str, context: int, monkeypatch) -> None:
    passes: list[Pass] = []

    class Noted(Runner):
        def _read_batch(self, *args: Any) -> Output:
            self.journal = [] if self.journal is None else self.journal
            said = super()._read_batch(*args)
            passes.append(self.journal[-1])
            return said

    monkeypatch.setattr(bare_module, "Runner", Noted)
    pair = make_pair(family)
    pair.teacher.float()
    timer = ForwardTimer(pair, 4)
    timed = {width: timer.seconds(Shape("teacher", "lean", 3, width, context, width)) for width in (2, 3)}
    for width, seconds in timed.items():
        own = [each for each in passes if (each.width, each.context) == (width, context)]
        timed_own = own if context else own[1:]  # the first one read the context too
        assert len(timed_own) >= bare_module.LEAST and {(each.rows, each.kind) for each in own} == {(3, "lean")}
        assert min(each.seconds for each in timed_own) == seconds, "the loop's share is not in it"


def test_a_shape_is_timed_once(pair: Pair, monkeypatch) -> None:
    timed = []
    monkeypatch.setattr(bare_module, "best_seconds", lambda work, *rest: timed.append(work()) or 0.5)
    timer, shape, told = ForwardTimer(pair, 4), Shape("student", "decode", 2, 1, 32, 1), []
    timer.measure([shape, shape], lambda: told.append(1))
    assert (timer.seconds(shape), len(timed), len(told)) == (0.5, 1, 1)
    if pair.is_seq2seq:
        assert timer.seconds(Shape("student", "encode", 2, 4, 0, 0)) == 0.5


def test_sources_are_timed_as_they_were_read(monkeypatch) -> None:
    """Ours by the fast encoder, transformers' by its own."""
    pair, read = make_pair("t5"), []
    for model in (pair.student, pair.teacher):
        model.float()
    passes = {name: KNOWN[name].run(wish_of(pair), 6).passes for name in ("deferral", "hf-teacher")}
    kinds = {name: {shape.kind for shape in each} for name, each in passes.items()}
    assert kinds == {"deferral": {"lean", "lean-encode"}, "hf-teacher": {"decode", "encode"}}
    right = FastEncoder.__call__
    monkeypatch.setattr(FastEncoder, "__call__", lambda *inputs: read.append(inputs[1].shape) or right(*inputs))
    timer, shape = ForwardTimer(pair, 4), Shape("teacher", "lean-encode", 2, 4, 0, 0)
    assert timer.seconds(shape._replace(kind="encode")) > 0 and not read
    assert timer.seconds(shape) > 0 and set(read) == {(2, 4)}


@pytest.mark.parametrize("family", ["gpt2", "marian", "bart"])
def test_learned_positions_are_not_left(family: str) -> None:
    """Rounded up to the grid, the last contexts would lie behind the last of 32 positions."""
    pair = make_pair(family)
    timer = ForwardTimer(pair, 5)
    for name in ("hf-teacher", "deferral", "speculative"):
        outcome = KNOWN[name].run(Workload(Prompts(pair, SOURCES, 20), 0.3, RULE, 3), 4)
        timer.measure(outcome.passes, lambda: None)
        assert all(timer.known[shape] > 0 for shape in outcome.passes)


def test_the_cost_of_a_pass_by_hand() -> None:
    """Llama, width 24, one layer of 2 heads, feed-forward 16, vocabulary 14, in float64."""
    pair = make_pair("llama")
    body, head, entries = 4 * 24 * 24 + 3 * 24 * 16, 14 * 24, 2 * 24
    cost = ForwardTimer(pair, 0).cost(Shape("teacher", "decode", 3, 2, 32, 1))
    assert cost.moved == 8 * (body + head + 3 * 34 * entries)
    assert cost.flops == 2 * 3 * (2 * body + head + 2 * 34 * entries)


@pytest.mark.parametrize(("weights", "of_body", "of_head"), [("int8", 1, 1), ("bfloat16", 2, 4)])
def test_a_pass_moves_rounded_weights(weights: str, of_body: int, of_head: int) -> None:
    pair = make_pair("llama")
    pair.teacher.float()
    pair.teacher_weights = weights
    body, head, entries = 4 * 24 * 24 + 3 * 24 * 16, 14 * 24, 2 * 24
    moved = ForwardTimer(pair, 0).cost(Shape("teacher", "lean", 3, 2, 32, 1)).moved
    assert moved == of_body * body + of_head * head + 4 * 3 * 34 * entries
    library = ForwardTimer(pair, 0).cost(Shape("teacher", "decode", 3, 2, 32, 1))
    assert library.moved == 4 * (body + head + 3 * 34 * entries), "the library's pass has them in float32"


def test_a_bare_pass_has_the_weights_of_the_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, made = make_pair("t5"), []
    pair.student.float(), pair.teacher.float()
    pair.student_weights = "int8"
    runner = forward_timer.Runner
    monkeypatch.setattr(
        forward_timer, "Runner", lambda *args, **more: made.append(more["weights"]) or runner(*args, **more)
    )
    timer = ForwardTimer(pair, 5)
    for model, kind in (("student", "lean"), ("student", "lean-encode"), ("teacher", "lean"), ("student", "encode")):
        timer.seconds(Shape(model, kind, 1, 4, 0, 1))
    assert made == ["int8", "int8", "float32", "float32"]


def test_keys_and_values_of_the_source_are_not_made_again_by_a_step() -> None:
    """T5, width 24 as 2 heads of 8, gated feed-forward 16."""
    pair = make_pair("t5")
    own, cross, gated = 4 * 24 * 16, 2 * 24 * 16, 3 * 24 * 16
    bias = pair.teacher.config.relative_attention_num_buckets * 2
    cost = ForwardTimer(pair, 4).cost(Shape("teacher", "decode", 1, 1, 0, 1))
    assert cost.moved == 8 * (own + cross + gated + bias + 14 * 24 + (1 + 4) * 2 * 16)


@pytest.mark.slow
def test_the_machine_is_measured() -> None:
    machine = Machine.measure(torch.device("cpu"), torch.float32)
    assert 1e8 < machine.bandwidth < 1e13 and 1e8 < machine.peak < 1e15


def test_a_ragged_pass_is_held_to_a_rectangle_of_as_many_tokens():
    passes = [Pass(4, 9, 5, 14), Pass(4, 9, 5, 36), Pass(3, 4, 5, 6)]
    counts = shapes_of({"teacher": passes}, deferral(RULE))
    assert [shape.width for shape in counts.elements()] == [4, 9, 2], "3.5 tokens in each of 4 rows, 9, and 2"
