"""What `student.generate(custom_generate=wheels.hf_generate)` refuses by name: it would be lost, or cannot be done."""

import json
import math

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedTokenizerFast, TextStreamer

import wheels
from tests.decoding.hf.test_generate import LIMIT, batch_of, ours, own, same
from tests.decoding.tiny import make_pair
from tests.envs.tiny import tokenizer_of
from wheels.decoding.methods.method import bild, deferral, speculative
from wheels.decoding.methods.rules import RULES
from wheels.decoding.models.cache import cache_argument
from wheels.errors import WheelsError
from wheels.models.loading import load_model
from wheels.models.pair import Pair


def test_tokenizers_that_differ_are_refused(tmp_path):
    pair = make_pair("t5")
    for name, save in (("q", pair.save_student), ("p", pair.save_teacher)):
        save(tmp_path / name)
    state = json.loads(pair.tokenizer.backend_tokenizer.to_str())
    words = state["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    other = type(pair.tokenizer.backend_tokenizer).from_str(json.dumps(state))
    PreTrainedTokenizerFast(tokenizer_object=other).save_pretrained(tmp_path / "p")
    student = load_model(tmp_path / "q")
    with pytest.raises(WheelsError, match="have different tokenizers"):
        ours(Pair(student, student, pair.tokenizer), teacher=tmp_path / "p", teacher_budget=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher_budget": 0.2}, r"rule 'maxprob' .* no threshold is known for budget 0.2; .* give threshold=\.\.\."),
        ({"teacher_budget": 0.2, "rule": "learned"}, "rule 'learned' has no trained head of seed 0"),
        ({"teacher_budget": 0.2, "rule": "maxprop"}, "rule must be one of .*; did you mean 'maxprob'"),
        ({"teacher_budget": 0.2, "rule": RULES["entropy"]}, r"rule 'entropy' has no threshold, so it never calls"),
        ({"teacher_budget": 0.2, "threshold": 0.6}, "threshold 0.6 decides alone, and teacher_budget=0.2 would not be"),
        ({"teacher_budget": 0.2, "threshold": 0.6, "budget_mode": "online"}, "threshold 0.6 decides alone"),
        ({"teacher_budget": 0.2, "rule": RULES["entropy"].at(0.6)}, "threshold 0.6 decides alone"),
        ({"teacher_budget": 0.2, "method": deferral(RULES["entropy"].at(0.6))}, "threshold 0.6 decides alone"),
        ({"teacher_budget": 0.4, "rule": RULES["entropy"].at(0.6, 0.2)}, "calibrated for budget 0.2 and would not"),
        ({"rule": RULES["entropy"]}, r"rule 'entropy' has no threshold, so it never calls"),
        ({"threshold": math.nan}, "threshold must be a number, got nan"),
        ({"threshold": "0.6"}, "threshold must be a number, got '0.6'"),
        ({"method": RULES["entropy"]}, "method must be a Method"),
        ({}, r"nothing says when to call; give teacher_budget=\.\.\. in \[0, 1\], threshold=\.\.\. or method="),
        ({"teacher_budget": 20}, r"teacher_budget must be in \[0, 1\], got 20; did you mean 0.2"),
        ({"teacher_budget": 0.2, "method": speculative(2)}, "'speculative' verifies every draft and has no budget"),
        ({"method": bild(), "threshold": 0.3}, "'bild' says itself when to call; leave rule= and threshold="),
        ({"rule": speculative(2)}, r"'speculative' is a method, not a rule; give it as method="),
        ({"teacher_budget": 0, "teacher": None}, "teacher must be a model, its folder or a hub id, got NoneType"),
        ({"teacher_budget": 0, "num_beams": 3}, "got num_beams=3; call generate with num_beams=1"),
        ({"teacher_budget": 0, "prompt_lookup_num_tokens": 3}, "got assisted_generation"),
        ({"teacher_budget": 0, "return_dict_in_generate": True, "output_scores": True}, "not keep what output_scores"),
        ({"teacher_budget": 0, "streamer": TextStreamer(tokenizer_of(False))}, "takes no streamer"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_what_cannot_be_done_is_refused(family, settings, message):
    with pytest.raises(WheelsError, match=message):
        ours(make_pair(family), texts=["a b"], **settings)


def test_models_of_two_kinds_are_refused():
    with pytest.raises(WheelsError, match="a pair needs two models of one kind"):
        ours(make_pair("t5"), teacher=make_pair("llama").teacher, teacher_budget=0)
    with pytest.raises(WheelsError, match="takes no assistant_model: give the large model as teacher="):
        pair = make_pair("t5")
        ours(pair, teacher_budget=0, assistant_model=pair.teacher)


@pytest.mark.parametrize("family", ["t5", "llama"])
@pytest.mark.parametrize(
    ("mask", "message"), [([0, 0, 0], "row 2 of 2 has no token at all"), ([1, 0, 1], "mask of row 2 of 2 has a hole")]
)
def test_a_row_that_cannot_be_read_is_named(family, mask, message):
    pair = make_pair(family)
    inputs = {"input_ids": torch.tensor([[3, 4, 5]] * 2), "attention_mask": torch.tensor([[1, 1, 1], mask])}
    with pytest.raises(WheelsError, match=message):
        pair.student.generate(
            **inputs, custom_generate=wheels.hf_generate, teacher=pair.teacher, teacher_budget=0, max_new_tokens=3
        )


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        ("t5", "encoder_outputs", r"wheels.hf_generate needs its ids; give input_ids=\.\.\."),
        ("t5", "inputs_embeds", r"does not read inputs_embeds; give input_ids"),
        ("llama", "inputs_embeds", "does not read inputs_embeds; give input_ids"),
    ],
)
def test_states_in_place_of_ids_are_refused(family, name, message):
    pair, ids = make_pair(family), torch.tensor([[3, 4, 5]])
    states = pair.student.get_encoder()(ids) if name == "encoder_outputs" else pair.student.get_input_embeddings()(ids)
    settings = {"teacher": pair.teacher, "teacher_budget": 0, "max_new_tokens": LIMIT, name: states}
    with pytest.raises(WheelsError, match=message):
        pair.student.generate(custom_generate=wheels.hf_generate, **settings)


MINE = "wheels.hf_generate does not read {}; give input_ids and attention_mask alone"


@pytest.mark.parametrize("family", ["t5", "llama", "gpt2"])
@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
def test_a_cache_of_the_callers_own_is_refused(family, filled):
    """What is in it, or what the caller would find in it afterwards, would be lost."""
    pair = make_pair(family)
    cache = DynamicCache()
    if filled:
        cache.update(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4), 0)
    mine = EncoderDecoderCache(cache, DynamicCache()) if pair.is_seq2seq else cache
    name = cache_argument(type(pair.student))
    with pytest.raises(WheelsError, match=MINE.format(name)):
        ours(pair, texts=["a b c"], teacher_budget=0, **{name: mine})


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(("first", "step"), [(0, 1), (2, 1), (0, 3)], ids=["own", "later", "gaps"])
def test_positions_are_those_of_the_mask_or_refused(family, first, step):
    pair = make_pair(family)
    batch = batch_of(pair, ["a b c", "k"])
    position_ids = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0) * step + first
    settings = {"teacher": pair.teacher, "teacher_budget": 1, "max_new_tokens": LIMIT, "do_sample": False}
    settings |= {"custom_generate": wheels.hf_generate, "position_ids": position_ids}
    if (first, step) == (0, 1):
        assert same(pair.student.generate(**batch, **settings), own(pair, "teacher", ["a b c", "k"]))
    else:
        with pytest.raises(WheelsError, match=MINE.format("position_ids")):
            pair.student.generate(**batch, **settings)


def test_states_beside_ids_are_refused():
    pair = make_pair("t5")
    states = pair.student.get_encoder()(torch.tensor([[3, 4, 5]]))
    with pytest.raises(WheelsError, match=MINE.format("encoder_outputs")):
        ours(pair, texts=["a b c"], teacher_budget=0, encoder_outputs=states)
    with pytest.raises(WheelsError, match=MINE.format("cache_implementation")):
        ours(pair, texts=["a b c"], teacher_budget=0, cache_implementation="static")
