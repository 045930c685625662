"""A teacher on a device of its own: the same texts, and no tensor meets one of the other device."""

import copy

import pytest
import torch

from tests.decoding.across.two import SOURCES, text_pair
from tests.decoding.elsewhere import AWAY, Elsewhere, SecondDevice, moved
from tests.decoding.tiny import make_pair, write
from wheels.decoding.methods.method import speculative, teacher_only
from wheels.decoding.methods.rules import RULES
from wheels.decoding.sampling import Sampling
from wheels.models.pair import Pair

LONG = {"max_new_tokens": 10}


@pytest.fixture(autouse=True)
def library(monkeypatch):
    """The fast path asks for addresses of weights, which these tensors have not."""
    monkeypatch.setattr("wheels.decoding.models.backends.fast_decoder_for", lambda model, kind="float32": None)


WAYS = {
    "deferral": (RULES["random"], {"budget": 0.5}),
    "strict": (RULES["random"], {"budget": 0.5, "mode": "strict"}),
    "drafts": (speculative(3), {}),
    "sampled": (speculative(3), {"sampling": Sampling(temperature=1.0), "seed": 3}),
    "teacher": (teacher_only(), {"budget": 1.0}),
    "foresight": (RULES["foresight"].at(0.1), {"budget": None}),
}


def test_tensors_of_two_devices_do_not_meet():
    there, here = Elsewhere(torch.ones(2)), torch.ones(2)
    assert there.device == AWAY and (there + 1).device == AWAY and (there * 2).tolist() == [2.0, 2.0]
    assert there.to("cpu").tolist() == [1.0, 1.0] and type(there.to("cpu")) is torch.Tensor
    with pytest.raises(RuntimeError, match="expected all tensors to be on one device"):
        there + here
    with SecondDevice():
        assert isinstance(torch.zeros(2, device=AWAY), Elsewhere) and isinstance(here.to(AWAY), Elsewhere)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_texts_are_the_same(family, way):
    pair, (how, settings) = make_pair(family), WAYS[way]
    sources = ["b c", "d e f g"]
    expected = write(pair, sources, how, **settings, **LONG)
    away = Pair(pair.student, moved(copy.deepcopy(pair.teacher)), pair.tokenizer, pair.prompt)
    with SecondDevice():
        found = write(away, sources, how, **settings, **LONG)
    assert [trace.token_ids for trace in found] == [trace.token_ids for trace in expected]
    assert [trace.authors for trace in found] == [trace.authors for trace in expected]


@pytest.mark.slow
@pytest.mark.parametrize("how", [teacher_only(), speculative(3)], ids=["calls", "drafts"])
def test_texts_of_two_tokenizers_are_the_same(how):
    pair, budget = text_pair("t5", "t5"), {} if how.verifier else {"budget": 1.0}
    expected = write(pair, SOURCES, how, **budget, **LONG)
    pair.writer = moved(copy.deepcopy(pair.writer))
    with SecondDevice():
        found = write(pair, SOURCES, how, **budget, **LONG)
    assert [trace.token_ids for trace in found] == [trace.token_ids for trace in expected]
